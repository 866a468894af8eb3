"""How well student, untrained student and teacher tell classes apart."""
import json
import os.path as osp
from typing import Any, Callable, Dict

import torch

from dmae_mm.evaluation import (FeatureModel, check_splits, extract_features,
                                knn_accuracy, linear_probe_accuracy)
from dmae_mm.evaluation.images import (EvaluationPipeline, batches,
                                       labelled_images)
from dmae_mm.evaluation.trained_models import move, read_loader
from dmae_mm.files import write_whole
from dmae_mm.host import build, quietly

from .labelled_images import LabelledImages
from .out_folder import OutFolder

FILE = 'evaluation.json'


def probe_models(folder: OutFolder, checkpoint: str, images: LabelledImages,
                 say: Callable[[str], None]) -> Dict[str, Any]:
    """Nearest neighbours and a linear probe, unless that was done before.

    Args:
        folder (OutFolder): Of the result.
        checkpoint (str): Of the trained student.
        images (LabelledImages): To learn from and to classify.
        say (Callable): Takes each line for a person.

    Returns:
        dict: What ``evaluation.json`` holds: the labels, and for each model
        the accuracies in percent, 'knn' and 'linear'.

    Raises:
        ValueError: If an image or a model cannot be used.
        OSError: If something cannot be read or written.
    """
    path = osp.join(folder.path, FILE)
    made_of = dict(labels=folder.arguments.labels,
                   checkpoint=osp.basename(checkpoint))
    if folder.made('evaluation', **made_of):
        with open(path) as file:
            return json.load(file)
    say('Evaluating ...')
    lists = images.write_lists(folder.path)
    network = FeatureModel(folder.config_file, checkpoint)
    untrained = FeatureModel(folder.config_file, checkpoint)
    torch.manual_seed(0)
    with quietly():
        untrained.backbone = build(network.parts['backbone'], 'The student')
        untrained.backbone.init_weights()
    pipeline = EvaluationPipeline.of(
        network.backbone, like=read_loader(folder.config_file))
    splits = {part: labelled_images(root, pipeline, lists[part])
              for part, root in images.folders.items()}
    check_splits(**splits, num_neighbors=images.neighbours)
    models = {}
    for name, model in (('student', network),
                        ('untrained student', untrained)):
        move(model, None)
        found = {part: extract_features(model, batches(split))
                 for part, split in splits.items()}
        models[name] = dict(
            knn=knn_accuracy(**found, num_neighbors=images.neighbours),
            linear=linear_probe_accuracy(**found))
    results = dict(**made_of, k=images.neighbours,
                   train_images=len(splits['train']),
                   test_images=len(splits['test']), models=models)
    with write_whole(path) as unfinished, open(unfinished, 'w') as file:
        json.dump(results, file, indent=2)
    folder.note_made('evaluation', file=FILE, **made_of)
    return results


def probe_table(results: Dict[str, Any]) -> str:
    """The accuracies as lines for a person."""
    lines = [f'{"accuracy in percent":24}{"kNN":>8}{"linear":>8}']
    lines += [f'{name:24}{found["knn"]:8.1f}{found["linear"]:8.1f}'
              for name, found in results['models'].items()]
    return '\n'.join([
        *lines, f'{results["test_images"]} images classified, '
        f'{results["train_images"]} learned from; k = {results["k"]}.'])
