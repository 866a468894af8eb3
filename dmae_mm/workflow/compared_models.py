"""How well student, untrained student and teacher tell classes apart."""
import json
import os.path as osp
import time
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
from .teacher_choice import choose_teachers

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
    # A student that takes any size is asked at the one that it knows, and so
    # are teachers of larger images.
    size = crop_size(read_config(folder.config_file))
    student = ProbedModel(
        folder.config_file, checkpoint, name='student', img_size=size)
    teachers = [
        ProbedModel(
            teacher.name,
            name=f'teacher {teacher_name(teacher.name)}',
            img_size=size and teacher.size_beside(size))
        for teacher in choose_teachers(folder.arguments.teacher)
    ]
    lists = images.write_lists(folder.path)

    def probed(model: ProbedModel) -> List[Dict[str, Any]]:
        started = time.monotonic()
        say(f'Evaluating the {model.name} ...')
        with quietly():
            rows = probe_models(
                [model],
                images.folders['train'],
                images.folders['test'],
                lists['train'],
                lists['test'],
                k=images.neighbours,
                batch_size=128 if get_device() != 'cpu' else 32,
                cache=osp.join(folder.path, 'features'))

        say(f'... {time.monotonic() - started:.0f} seconds.')
        return rows

    rows = [
        *probed(student),
        *probed(replace(student, untrained=True, name='untrained student'))
    ]
    for teacher in teachers:
        try:
            rows += probed(teacher)
        except ValueError as error:  # it need not have a last block
            say(f'The {teacher.name} is not evaluated: {error}')
    results = dict(made_of, rows=rows)
    with write_whole(path) as unfinished, open(unfinished, 'w') as file:
        json.dump(results, file, indent=2)
    folder.note_made('evaluation', file=FILE, **made_of)
    return results
