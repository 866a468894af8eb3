"""How well student, untrained student and teacher tell classes apart."""
import json
import os.path as osp
from dataclasses import replace
from typing import Any, Callable, Dict, List

from mmengine.device import get_device

from dmae_mm.evaluation import ProbedModel, probe_models
from dmae_mm.files import write_whole
from dmae_mm.host import quietly, read_config
from dmae_mm.launch import crop_size
from dmae_mm.models.teachers.teacher_section import teacher_name

from .labelled_images import LabelledImages
from .out_folder import OutFolder

FILE = 'evaluation.json'


def compare_models(folder: OutFolder, checkpoint: str, images: LabelledImages,
                   say: Callable[[str], None]) -> Dict[str, Any]:
    """Nearest neighbours and a linear probe, unless that was done before.

    Args:
        folder (OutFolder): Of the result.
        checkpoint (str): Of the trained student.
        images (LabelledImages): To learn from and to classify.
        say (Callable): Takes each line for a person.

    Returns:
        dict: What ``evaluation.json`` holds: ``labels``, ``checkpoint``, and
        ``rows``, those of :func:`~dmae_mm.evaluation.probe_models` of the
        student, the untrained student and each teacher.

    Raises:
        ValueError: If an image or the student cannot be used.
        OSError: If something cannot be read or written.
    """
    path = osp.join(folder.path, FILE)
    made_of = dict(labels=folder.arguments.labels,
                   checkpoint=osp.basename(checkpoint))
    if folder.made('evaluation', **made_of):
        with open(path) as file:
            return json.load(file)
    say('Evaluating student, untrained student and teacher ...')
    # A student that takes any size is asked at the one that it knows.
    student = ProbedModel(
        folder.config_file, checkpoint, name='student',
        img_size=crop_size(read_config(folder.config_file)))
    models = [student,
              replace(student, untrained=True, name='untrained student')]
    teachers = [ProbedModel(spec, name=f'teacher {teacher_name(spec)}')
                for spec in folder.arguments.teacher]
    lists = images.write_lists(folder.path)

    def probed(models: List[ProbedModel]) -> List[Dict[str, Any]]:
        with quietly():
            return probe_models(
                models,
                images.folders['train'],
                images.folders['test'],
                lists['train'],
                lists['test'],
                k=images.neighbours,
                batch_size=128 if get_device() != 'cpu' else 32,
                cache=osp.join(folder.path, 'features'))

    try:
        rows = probed(models + teachers)
    except ValueError as error:  # what can teach, need not have a last block
        rows = probed(models)
        say(f'The teacher is not evaluated: {error}')
    results = dict(made_of, rows=rows)
    with write_whole(path) as unfinished, open(unfinished, 'w') as file:
        json.dump(results, file, indent=2)
    folder.note_made('evaluation', file=FILE, **made_of)
    return results
