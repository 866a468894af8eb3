"""Whose mean and std a teacher's images get, and who says so."""
import logging
from typing import Optional

from mmengine.logging import print_log

from dmae_mm.messages import first_few
from dmae_mm.weights import TensorFile
from dmae_mm.weights.formats import TranslatedFile
from dmae_mm.weights.names import layout_of
from dmae_mm.weights.origin import normalisation_of, signs_of_another_origin

from .image_matcher import ImageMatcher


def settle_normalisation(images: ImageMatcher, file: TensorFile,
                         described_by: Optional[str]) -> None:
    """Normalise as the config gives it, or else as the file says.

    Where nobody says it, a file that may be of MAE gets the student's, and
    the log says so; another is refused.

    Args:
        images (ImageMatcher): What the teacher sees; it has the mean and std
            that the config gives, if it does. Changed in place.
        file (TensorFile): The teacher's checkpoint.
        described_by (str, optional): Who described the model, where mean and
            std in ``images`` are a description of a model of that name
            instead of given.

    Raises:
        ValueError: If neither config nor file says how images are
            normalised, and the file is of another origin than expected.
    """
    student = images.student_input
    if student is None:
        return
    said = normalisation_of(file)
    if None not in (said.to_rgb, student.to_rgb) and (
            said.to_rgb != student.to_rgb and images.channels is None
            and student.in_channels == 3):
        raise ValueError(
            f'teacher: by {said.said_by}, {file.source} was trained on '
            f'images with to_rgb={said.to_rgb}, the student has '
            f'to_rgb={student.to_rgb} (data_preprocessor): their channels are '
            'in reverse order. Give the teacher channels=[2, 1, 0], or '
            'channels=[0, 1, 2] if they are not.')
    if said.mean is not None and len(said.mean) == 1:
        said = said.for_channels(student.in_channels)
    if images.mean is not None and described_by is None:
        if said.mean is not None and _differ(images, said):
            print_log(
                f'Teacher: mean={list(images.mean)} and '
                f'std={list(images.std)} are given, but {file.source} was '
                f'trained with mean={list(said.mean)} and '
                f'std={list(said.std)} (by {said.said_by}).',
                logger='current',
                level=logging.WARNING)
        return
    if described_by is not None and isinstance(file, TranslatedFile) and any(
            not _differ(images, other)
            for other in file.format.other_normalisations):
        _log(images, f'{described_by}, as {file.format.name} may have them')
        return
    if said.mean is not None:
        who = f'by {said.said_by}'
        if described_by is not None and _differ(images, said):
            who += (f', which counts for more than that {described_by} '
                    f'mean={_shown(images.mean)}, std={_shown(images.std)}')
        images.normalise(said.mean, said.std)
        _log(images, who)
        return
    if described_by is not None:
        names = layout_of(file.tensors)
        if names in ('mmpretrain', 'mmpretrain backbone') and (
                images.scale is not None):
            raise ValueError(
                f"teacher: {file.source} has mmpretrain's names and does not "
                'say how its images were normalised, and what '
                f'{described_by}, mean={_shown(images.mean)}, '
                f'std={_shown(images.std)}, is not how the student\'s are, '
                f'mean={_shown(student.mean)}, std={_shown(student.std)}. '
                'Give the teacher mean=[...] and std=[...], for pixel values '
                'from 0 to 255.')
        return
    signs = signs_of_another_origin(file)
    if signs and student.mean is None:
        print_log(
            f'Teacher: {file.source} is not of MAE ({first_few(signs, 3)}). '
            'The data_preprocessor of the model does not normalise the '
            'images, so they reach the teacher as they are.',
            logger='current',
            level=logging.WARNING)
    elif signs:
        raise ValueError(
            f'teacher: {file.source} has {first_few(signs, 3)}, which no file '
            "of MAE's pre-training has, and does not say how its images were "
            "normalised; the student's images have "
            f'mean={_shown(student.mean)}, std={_shown(student.std)}. Give '
            "the teacher's own, mean=[...] and std=[...] for pixel values "
            'from 0 to 255: of a model of timm, they are 255 times '
            "timm.create_model(NAME).pretrained_cfg['mean'] and ['std']. Or "
            'use a TimmTeacher(model_name=NAME), which knows them.')
    elif student.mean is not None:
        _log(images, "the student's, since the file does not say its own",
             student.mean, student.std)


def _differ(images: ImageMatcher, said) -> bool:
    given = [*images.mean, *images.std]
    wanted = [*said.mean, *said.std]
    return len(given) != len(wanted) or any(
        abs(a - b) > .01 for a, b in zip(given, wanted))


def _log(images: ImageMatcher, who: str, mean=None, std=None) -> None:
    print_log(
        f'Teacher: its images have mean={_shown(mean or images.mean)} and '
        f'std={_shown(std or images.std)}: {who}.',
        logger='current')


def _shown(values) -> Optional[list]:
    return values and [round(value, 3) for value in values]
