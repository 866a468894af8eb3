"""What teaches a student: no distillation, one, or several."""
import re
from typing import (Any, Callable, Dict, Iterator, List, Optional, Sequence,
                    Tuple)

import torch
import torch.nn as nn

from dmae_mm.options import is_finite_number

from .checks import check_teacher
from .distillation import Distillation
from .losses import teacher_dropping
from .student import Student
from .teachers import Teacher
from .tokens import OutputRecorder

# What an option of a single distillation is called in a model.
_BESIDE_TEACHER = dict(mask_ratio='teacher_mask_ratio')
_NAME = re.compile('[A-Za-z][A-Za-z0-9_]*')

Features = List[Sequence[torch.Tensor]]  # of each distillation, of its pairs


class Distillations:
    """The distillations of a model, perhaps none.

    A model owns one and hands it what its student computes::

        output, features = self.distillations.record(self.backbone, images)
        losses.update(self.distillations.losses(images, features, ...))

    Args:
        student (Student): Who learns.
        options (dict[str, dict]): Options of each :class:`Distillation`, by
            the name of its teacher; the name of a single one is ''.
        teacher_dropping (float, optional): With which probability a teacher
            that is not an image's worst is dropped for it, in training mode:
            see :func:`teacher_dropping`. Defaults to None: the losses of all
            teachers are summed.

    Raises:
        ValueError: If the parts do not fit together; the message names the
            option, its value and the legal values.
    """

    def __init__(self,
                 student: Student,
                 options: Dict[str, dict],
                 teacher_dropping: Optional[float] = None) -> None:
        self.by_name: Dict[str, Distillation] = {}
        for name, given in options.items():
            try:
                self.by_name[name] = Distillation(student, name=name, **given)
            except ValueError as error:
                if not name:
                    raise
                raise ValueError(f'teachers.{name}: {error}') from error
        _check_dropping(teacher_dropping, self.by_name)
        self.teacher_dropping = teacher_dropping
        self.student_recorder = OutputRecorder([
            module for distillation in self
            for module in distillation.student_modules
        ])

    def __iter__(self) -> Iterator[Distillation]:
        return iter(self.by_name.values())

    def __len__(self) -> int:
        return len(self.by_name)

    @property
    def teachers(self) -> Dict[str, Teacher]:
        """Each teacher by its name; that of a single one is ''."""
        return {name: part.teacher for name, part in self.by_name.items()}

    @property
    def loss_names(self) -> List[str]:
        """Names of the losses of all pairs."""
        return [name for part in self for name in part.loss_names]

    def register_in(self, model: nn.Module) -> None:
        """Make what learns or is saved submodules of a model.

        ``distill_neck``, ``distill_loss``, ``distill_target`` and
        ``distill_generator`` of a single distillation; of several
        ``distill_necks.NAME`` and so on.

        Args:
            model (nn.Module): The model.
        """
        for attribute, one, several in (
            ('neck', 'distill_neck', 'distill_necks'),
            ('loss', 'distill_loss', 'distill_losses'),
            ('targets', 'distill_target', 'distill_targets'),
            ('generators', 'distill_generator', 'distill_generators'),
        ):
            parts = {
                name: getattr(part, attribute)
                for name, part in self.by_name.items()
                if getattr(part, attribute) is not None
            }
            if '' in parts:
                setattr(model, one, parts[''])
            elif parts:
                setattr(model, several, nn.ModuleDict(parts))

    def init_weights(self, device: torch.device) -> None:
        """Read the teachers' checkpoints, and move them to the student.

        They would follow their images, but inside a compiled step that is
        slow.
        """
        for part in self:
            part.teacher.init_weights()
            part.teacher.to(device)

    def record(self, function: Callable,
               *args: Any) -> Tuple[Any, Features]:
        """Call the student and record what is aligned.

        Args:
            function (Callable): The backbone, or what runs it.
            *args: Its arguments.

        Returns:
            tuple: What the function returned, and for each distillation its
            pairs' student tokens, (B, P_student + K, C_student).
        """
        result, outputs = self.student_recorder.record(function, *args)
        features, outputs = [], iter(outputs)
        for part in self:
            features.append([next(outputs) for _ in part.student_modules])
        return result, features

    def losses(
        self,
        images: torch.Tensor,
        student_features: Features,
        ids_restore: Optional[torch.Tensor] = None,
        num_visible: Optional[int] = None
    ) -> Dict[str, torch.Tensor]:
        """Run each teacher and compare the student's features with its own.

        Args:
            images (torch.Tensor): Normalised images, (B, C, H, W).
            student_features (list): As of :meth:`record`.
            ids_restore (torch.Tensor, optional): MAE's permutation, (B, L).
                None: all patches are visible, in their own order.
            num_visible (int, optional): How many of them are visible, K.

        Returns:
            dict[str, torch.Tensor]: One loss a pair. With
            ``teacher_dropping``, in training mode, its share of the mean
            over what is kept.
        """
        dropping = self.teacher_dropping is not None and all(
            part.loss.training for part in self)
        by_teacher = [
            part.losses(images, features, ids_restore, num_visible, dropping)
            for part, features in zip(self, student_features)
        ]
        if dropping:
            by_teacher = self._drop(by_teacher)
        return {
            name: loss for losses in by_teacher
            for name, loss in losses.items()
        }

    def _drop(
        self, by_teacher: List[Dict[str, torch.Tensor]]
    ) -> List[Dict[str, torch.Tensor]]:
        """Weigh the losses of each teacher's pairs and images, (B,)."""
        of_teachers = torch.stack(
            [sum(losses.values()) for losses in by_teacher])  # (T, B)
        weights = teacher_dropping(of_teachers, torch.rand_like(of_teachers),
                                   self.teacher_dropping)
        return [{
            name: (weight * loss).sum()
            for name, loss in losses.items()
        } for weight, losses in zip(weights, by_teacher)]


def distillation_options(teachers: Optional[dict],
                         **single: Any) -> Dict[str, dict]:
    """Options of each distillation, of one teacher or of several.

    Args:
        teachers (dict, optional): Options of several, by name.
        **single: Those of a single one. It does not exist if its ``teacher``
            is None.

    Returns:
        dict[str, dict]: As :class:`Distillations` takes them, sorted by name.

    Raises:
        ValueError: If both are given, a name is illegal, or a distillation
            has no teacher, no pairs, or an option that does not exist.
    """
    if teachers is None:
        check_teacher(single['aligned_layers'], single['teacher'])
        return {} if single['teacher'] is None else {'': single}
    if not isinstance(teachers, dict) or not teachers:
        raise ValueError(
            f'teachers={teachers!r} is not a dict of distillations. Give '
            'dict(NAME=dict(teacher=dict(...), aligned_layers=[...]), ...), '
            'or one teacher as teacher=dict(...).')
    given = [_BESIDE_TEACHER.get(name, name)
             for name, value in single.items() if value not in (None, (), [])]
    if given:
        raise ValueError(
            f'teachers is given, and so is {", ".join(given)}, which is for a '
            f'single teacher. Move it into each of {list(teachers)}, and set '
            + ', '.join(
                f'{name}={[] if name == "aligned_layers" else None}'
                for name in given) + '.')
    legal = [*single]
    for name, options in teachers.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name) or hasattr(
                nn.ModuleDict, name):
            raise ValueError(
                f'teachers: {name!r} cannot be the name of a teacher, of '
                'which logs and checkpoints make names of losses and '
                "tensors. Choose letters, digits and '_', for example "
                "'dino'.")
        if not isinstance(options, dict) or 'teacher' not in options:
            raise ValueError(f'teachers.{name}={options!r} is not a dict with '
                             "a 'teacher'.")
        unknown = [option for option in options if option not in legal]
        if unknown:
            raise ValueError(
                f'teachers.{name}: {unknown[0]!r} is no option of a '
                f'distillation. It has {", ".join(legal)}.')
        try:
            check_teacher(options.get('aligned_layers', ()),
                          options['teacher'])
        except ValueError as error:
            raise ValueError(f'teachers.{name}: {error}') from None
        if options['teacher'] is None:
            raise ValueError(f'teachers.{name}: teacher=None. Remove '
                             f'{name!r}, or give its teacher.')
    # In an order that a config has kept when MMEngine has written and read it:
    # optimizers and random draws count by it.
    return {name: dict(teachers[name]) for name in sorted(teachers)}


def _check_dropping(probability: Optional[float],
                    by_name: Dict[str, Distillation]) -> None:
    """Refuse teachers that cannot be dropped."""
    if probability is None:
        return
    if not is_finite_number(probability) or not 0 <= probability <= 1:
        raise ValueError(f'teacher_dropping={probability!r} is not a '
                         'probability from 0 to 1. Leave it out to sum the '
                         'losses of all teachers.')
    if len(by_name) < 2:
        raise ValueError(
            f'teacher_dropping={probability!r} needs at least two teachers, '
            'of which one stays for each image. Give them as teachers=dict('
            'NAME=dict(...), ...), or set teacher_dropping=None.')
    for name, part in by_name.items():
        if not hasattr(part.loss, 'per_image'):
            raise ValueError(
                f'teachers.{name}.distill_loss: teacher_dropping='
                f'{probability!r} weighs each image, but a '
                f'{type(part.loss).__name__} has no per_image(student, '
                'teacher), the loss of each image, (B,). Add that, choose '
                'another distill_loss, or set teacher_dropping=None.')
