import inspect
from collections import Counter
from math import prod
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
from mmpretrain.registry import MODELS

from dmae_mm.options import is_finite_number

from .region_maps import patches_of_units, visible_tokens
from .student import Student, num_seen
from .teachers import Teacher
from .tokens import first_ids, resolve_block, without_registers

Block = Union[int, float]

# What a loss of each tap compares; what a student lacks that has none of it,
# and which teachers have it, for errors.
_TAPS = dict(
    block='the outputs of blocks',
    qkv='the outputs of qkv layers',
    decoder="the outputs of a decoder's blocks")
_REMEDIES = dict(
    block='Align a backbone with blocks.',
    qkv='Choose a backbone whose blocks make q, k and v in one layer: '
    'MAEViT, MAEHiViT, VisionTransformer, ...; BEiTViT only without '
    'qv_bias.',
    decoder="Give neck=dict(type='MAEPretrainDecoder', ...).")
_TEACHERS = dict(
    block='Choose an MMPretrainTeacher or a TimmTeacher.',
    qkv='Choose an MMPretrainTeacher or a TimmTeacher.',
    decoder='Choose an MAETeacher.')


class Distillation:
    """A frozen teacher, the blocks that are aligned with its own, and how.

    It is no ``nn.Module``, so that the teacher is absent from the model's
    parameters, state dict, DDP buckets and optimizers: see
    :class:`Distillations`, which a model calls and which registers what
    learns. A deep copy, such as an EMA's, shares the teacher.

    Args:
        student (Student): Who learns.
        teacher (dict): Config of the teacher.
        aligned_layers (Sequence[tuple]): Pairs of (student block, teacher
            block): 0-based ints, negative from the end, or depth fractions;
            perhaps none.
        distill_neck (dict, optional): Config of the projectors. Defaults to
            None: linear ones, if the loss compares projected features.
        distill_loss (dict, optional): Config of the loss of features.
            Defaults to None: L1 on normalised features.
        mask_ratio (float, optional): Part of the patches that is hidden from
            the teacher, at most the student's; 0: none. It sees the student's
            visible ones and further ones at random. Defaults to None: the
            same as the student.
        target (dict, optional): Config of what standardises the teacher's
            tokens before they are compared. Defaults to None.
        generator (dict, optional): Config of a
            :class:`FeatureGenerationNeck`, which predicts the teacher's
            tokens of patches that only the teacher sees. Defaults to None.
        name (str): Of the teacher, where there are several. Defaults to ''.

    Attributes:
        teacher (Teacher): The teacher.
        student_blocks (list[int]): 0-based index of each pair's student
            block.
        tap (str): Which features are compared: 'block', 'qkv' or 'decoder',
            see :class:`FeatureLoss`.
        student_modules (list[nn.Module]): Whose outputs are a pair's student
            features.
        loss_names (list[str]): Name of each aligned pair's loss.
        has_cls (bool): Whether the tokens that are compared begin with CLS.
        neck (nn.Module, optional): The projectors; None without pairs, or
            where the loss compares relations.
        loss (nn.Module, optional): Compares features; None without pairs.
        targets (nn.ModuleList, optional): What standardises each pair's
            teacher tokens; None without ``target``.
        generators (nn.ModuleList, optional): What predicts each pair's
            further teacher tokens; None without ``generator``.

    Raises:
        ValueError: If the parts do not fit together; the message names the
            option, its value and the legal values.
    """

    def __init__(self,
                 student: Student,
                 teacher: dict,
                 aligned_layers: Sequence[Tuple[Block, Block]],
                 distill_neck: Optional[dict] = None,
                 distill_loss: Optional[dict] = None,
                 mask_ratio: Optional[float] = None,
                 target: Optional[dict] = None,
                 generator: Optional[dict] = None,
                 name: str = '') -> None:
        self.student = student
        self.num_seen = _num_seen(
            student, mask_ratio,
            'mask_ratio' if name else 'teacher_mask_ratio')
        self.loss: Optional[nn.Module] = None
        self.neck: Optional[nn.Module] = None
        self.targets: Optional[nn.ModuleList] = None
        self.generators: Optional[nn.ModuleList] = None
        if aligned_layers:
            self.loss = build_part(
                'distill_loss',
                distill_loss or dict(type='FeatureAlignmentLoss'))
        self.tap = getattr(self.loss, 'tap', 'block')
        _check_taps(self.loss, self.tap, student, teacher, aligned_layers)
        modules = student.modules.get(self.tap, ())
        self.student_blocks = ours = [
            resolve_block(block, len(modules), 'student')
            for block, _ in aligned_layers
        ]
        self.student_modules = [modules[index] for index in ours]
        self.teacher: Teacher = build_part(
            'teacher',
            teacher,
            aligned_blocks=[block for _, block in aligned_layers],
            student_input=student.images,
            **({} if self.tap != 'qkv' else dict(tap=self.tap)))
        self.loss_names = [
            f'loss_align_{name}{"_" * bool(name)}s{s}_t{t}'
            for s, t in zip(ours, self.teacher.aligned_blocks)
        ]
        _check_no_duplicates(aligned_layers, self.loss_names)
        _check_not_frozen(modules, ours)
        if not aligned_layers:
            if target is not None:
                raise ValueError(
                    f'target={target!r}, but aligned_layers is empty, so '
                    'there are no features to standardise. Set target=None.')
            return
        tokens = getattr(self.loss, 'tokens', 'shared')
        self.has_cls = (
            tokens == 'shared' and student.has_cls_token
            and self.teacher.has_cls_token)
        # What a loss asks for beside the two sides' tokens.
        self.asked_for = {'has_cls', 'mask'} & set(
            inspect.signature(self.loss.forward).parameters)
        _check_loss(self, distill_neck, target)
        # Leaves the random state as it was, so that the student starts from
        # the same weights as in the control without projectors.
        with torch.random.fork_rng(devices=[]):
            if getattr(self.loss, 'projects', True):
                self.neck = build_part(
                    'distill_neck',
                    distill_neck or dict(type='FeatureProjectionNeck'),
                    student_dims=_widths(student.embed_dims[self.tap], ours),
                    teacher_dims=self.teacher.embed_dims,
                    num_pairs=len(aligned_layers))
            if target is not None:
                self.targets = nn.ModuleList(
                    build_part(
                        'target', target, embed_dims=self.teacher.embed_dims)
                    for _ in aligned_layers)
            if generator is not None:
                _check_generator(self, generator)
                self.generators = nn.ModuleList(
                    build_part(
                        'generator',
                        generator,
                        embed_dims=self.teacher.embed_dims,
                        grid=student.images.patch_grid)
                    for _ in aligned_layers)

    def unmeasured_targets(self) -> List[nn.Module]:
        """Targets whose statistics are to be measured before a training.

        These have an ``is_fitted``, an ``accumulate`` and a ``finish``, as
        :class:`PHIStandardize`.
        """
        return [
            target for target in self.targets or ()
            if not getattr(target, 'is_fitted', True)
        ]

    def num_targets(self) -> Optional[int]:
        """How many tokens of an image are targets; None if not known."""
        patches = self.student.num_patches
        if self.generators is not None:
            patches = self.num_seen
        elif self.tap != 'decoder':
            patches = self.student.num_visible or patches
        return patches and patches + self.has_cls

    def measure_targets(self, images: torch.Tensor) -> None:
        """Count in what the teacher shows of images.

        It sees patches at random, as many as in a training step, and those
        tokens count that are targets then.

        Args:
            images (torch.Tensor): Normalised images, (B, C, H, W).
        """
        ids_restore = None
        if self.student.num_visible is not None:
            noise = torch.rand(
                len(images), self.student.num_patches, device=images.device)
            ids_restore = noise.argsort(dim=1)
        features = self.teacher_features(images, ids_restore,
                                         self.student.num_visible)
        for target, tokens in zip(
                self.targets,
                self.teacher_tokens(features, self.num_targets())):
            if not target.is_fitted:
                target.accumulate(tokens)

    def losses(
        self,
        images: torch.Tensor,
        student_features: Sequence[torch.Tensor],
        ids_restore: Optional[torch.Tensor] = None,
        num_visible: Optional[int] = None,
        per_image: bool = False
    ) -> Dict[str, torch.Tensor]:
        """Run the teacher and compare the student's features with its own.

        Args:
            images (torch.Tensor): Normalised images, (B, C, H, W).
            student_features (Sequence[torch.Tensor]): A pair's student
                tokens, (B, P_student + K, C_student); with units, those of
                a whole map.
            ids_restore (torch.Tensor, optional): MAE's permutation, (B, L).
                None: all patches are visible, in their own order.
            num_visible (int, optional): K.
            per_image (bool): As of :meth:`align`.

        Returns:
            dict[str, torch.Tensor]: As of :meth:`align`.
        """
        units = self.student.images.units
        if units is not None:
            ids_keep = first_ids(ids_restore, num_visible)
            student_features = [
                visible_tokens(feature, ids_keep, units,
                               self.teacher.patch_grid)
                for feature in student_features
            ]
        return self.align(
            student_features,
            self.teacher_features(images, ids_restore, num_visible),
            ids_restore, num_visible, per_image)

    def teacher_features(
            self, images: torch.Tensor, ids_restore: Optional[torch.Tensor],
            num_visible: Optional[int]) -> Tuple[torch.Tensor, ...]:
        """Run the teacher on the patches that it is to see.

        Args: As of :meth:`losses`.

        Returns:
            tuple[torch.Tensor]: Of each pair (B, P_teacher + N, C_teacher).
        """
        seen = ()
        if ids_restore is not None:
            # A model may be looked at with another mask ratio than it has.
            number = max(self.num_seen or 0, num_visible)
            seen = (first_ids(ids_restore, number), )
            if self.tap == 'decoder':
                seen += (ids_restore, )
        units = self.student.images.units
        if units is not None and seen:
            grid = self.teacher.patch_grid
            seen = (patches_of_units(seen[0], units, grid), )
        return self.teacher(images, *seen)

    def align(
        self,
        student_features: Sequence[torch.Tensor],
        teacher_features: Sequence[torch.Tensor],
        ids_restore: Optional[torch.Tensor] = None,
        num_visible: Optional[int] = None,
        per_image: bool = False
    ) -> Dict[str, torch.Tensor]:
        """Distance of each aligned pair on the tokens that both sides have.

        Args:
            student_features (Sequence[torch.Tensor]): A pair's student
                tokens, (B, P_student + K, C_student).
            teacher_features (Sequence[torch.Tensor]): A pair's teacher
                tokens, (B, P_teacher + N, C_teacher), of which the first K
                patches are the student's.
            ids_restore (torch.Tensor, optional): As of :meth:`losses`.
            num_visible (int, optional): Likewise.
            per_image (bool): Whether each loss is that of each image, (B,).
                Defaults to False: their mean, a scalar.

        Returns:
            dict[str, torch.Tensor]: One loss a pair; with a ``generator``
            also ``loss_generate_...`` of each, that of the tokens that only
            the teacher has.

        Raises:
            RuntimeError: If the student features carry no gradient, as when
                activation checkpointing encloses several blocks together.
        """
        if not self.loss_names:
            return {}
        if self.loss.training and torch.is_grad_enabled() and not all(
                feature.requires_grad for feature in student_features):
            raise RuntimeError(
                'The student features carry no gradient. With '
                'activation_checkpointing, name single blocks '
                "('backbone.layers.0', ...), not the backbone" +
                ', and none whose qkv layer is compared' *
                (self.tap == 'qkv') + '.')
        num_prefix = self.student.num_prefix_tokens
        if self.tap == 'decoder':
            num_prefix = 1  # CLS, or what stands there for a student without
        ours = [
            alignable_tokens(feature, num_prefix, self.has_cls)
            for feature in student_features
        ]
        if self.neck is not None:
            ours = self.neck(ours)
        theirs = self.teacher_tokens(
            teacher_features,
            ours[0].shape[1] if self.generators is None else None)
        if self.targets is not None:
            theirs = [
                target(tokens, self.has_cls)
                for target, tokens in zip(self.targets, theirs)
            ]
        asked_for = dict(has_cls=self.has_cls)
        if 'mask' in self.asked_for and ids_restore is not None:
            asked_for['mask'] = ids_restore >= num_visible  # (B, L)
        asked_for = {
            key: value
            for key, value in asked_for.items() if key in self.asked_for
        }
        compare = self.loss.per_image if per_image else self.loss
        losses = {
            name: compare(student, teacher[:, :student.shape[1]], **asked_for)
            for name, student, teacher in zip(self.loss_names, ours, theirs)
        }
        if self.generators is not None:
            ids_keep, ids_extra = first_ids(ids_restore, self.num_seen).split(
                [num_visible, self.num_seen - num_visible], dim=1)
            for name, generate, student, teacher in zip(
                    self.loss_names, self.generators, ours, theirs):
                losses[name.replace('align', 'generate', 1)] = compare(
                    generate(student, ids_keep, ids_extra),
                    teacher[:, student.shape[1]:])
        return losses

    def teacher_tokens(self,
                       teacher_features: Sequence[torch.Tensor],
                       number: Optional[int] = None) -> List[torch.Tensor]:
        """Of each pair, the teacher's tokens that can be compared.

        Args:
            teacher_features (Sequence[torch.Tensor]): As of :meth:`align`.
            number (int, optional): How many tokens the student has. Defaults
                to None: all that the teacher saw.

        Returns:
            list[torch.Tensor]: (B, [1 +] N, C_teacher), as ``has_cls`` says.
        """
        return [
            alignable_tokens(feature, self.teacher.num_prefix_tokens,
                             self.has_cls, number)
            for feature in teacher_features
        ]


def alignable_tokens(feature: torch.Tensor,
                     num_prefix: int,
                     keep_cls: bool,
                     number: Optional[int] = None) -> torch.Tensor:
    """Patch tokens, with CLS in front if both sides have one.

    Args:
        feature (torch.Tensor): Tokens of one side, (B, P + N, C).
        num_prefix (int): P, of which the first is CLS if there is one.
        keep_cls (bool): Whether both sides have CLS.
        number (int, optional): How many tokens are wanted, where the teacher
            sees more. Defaults to None: all.

    Returns:
        torch.Tensor: (B, [1 +] N, C); a view unless registers have to be cut
        out.
    """
    tokens = without_registers(feature, num_prefix, keep_cls)
    return tokens if number in (None, tokens.shape[1]) else tokens[:, :number]


def build_part(section: str, cfg: dict, **filled_in: Any) -> nn.Module:
    """Build a part from its section of the config and from other parts.

    Args:
        section (str): Name of the section, for errors.
        cfg (dict): The section.
        **filled_in: Options that follow from other parts.

    Returns:
        nn.Module: The part.

    Raises:
        ValueError: If the section is no dict with a type, or has an option
            that is filled in here, which would be overwritten.
    """
    if not isinstance(cfg, dict) or 'type' not in cfg:
        raise ValueError(f'{section}={cfg!r} is not a dict with a "type".')
    typed = [f'{name}={cfg[name]!r}' for name in filled_in if name in cfg]
    if typed:
        raise ValueError(
            f'{section}: {", ".join(typed)} must not be given: it follows '
            'from backbone, teacher and aligned_layers. Remove it.')
    return MODELS.build(dict(cfg, **filled_in))


def _widths(dims: Union[int, Sequence[int]],
            blocks: List[int]) -> Union[int, List[int]]:
    """Width of each of these blocks; one number if all have the same."""
    return dims if isinstance(dims, int) else [dims[i] for i in blocks]


def _num_seen(student: Student, mask_ratio: Optional[float],
              option: str) -> Optional[int]:
    """How many patches the teacher sees; None for as many as the student."""
    if mask_ratio is None:
        return None
    if student.images.units is not None:
        if mask_ratio != 0 or isinstance(mask_ratio, bool):
            raise ValueError(
                f'teacher_mask_ratio={mask_ratio!r}: of a student that is '
                'masked in regions, the teacher sees what is visible (None) '
                'or all patches (0).')
        return student.num_patches
    if student.num_visible is None:
        raise ValueError(
            f'{option}={mask_ratio!r}, but the student sees whole '
            'images, and so does its teacher. Remove it.')
    number = is_finite_number(mask_ratio) and 0 <= mask_ratio < 1 and num_seen(
        student.num_patches, mask_ratio)
    if not number or number < student.num_visible:
        masked = 1 - student.num_visible / student.num_patches
        raise ValueError(
            f'{option}={mask_ratio!r} is not a number from 0 (the '
            f"teacher sees all patches) to the student's {masked:.4g} (it "
            'sees the same). Features are compared where the student sees, '
            'so the teacher must see at least as much.')
    return number


def _check_taps(loss: Optional[nn.Module], tap: str, student: Student,
                teacher: dict, aligned_layers: Sequence) -> None:
    """Refuse a loss of features that one of the sides does not have."""
    compared = f'distill_loss: a {type(loss).__name__} compares {_TAPS[tap]}'
    if aligned_layers and tap not in student.modules:
        raise ValueError(
            f'{compared}, which the student does not have. {_REMEDIES[tap]} '
            'Or choose another distill_loss.')
    cls = teacher.get('type') if isinstance(teacher, dict) else None
    if isinstance(cls, str):
        cls = MODELS.get(cls)
    taps = getattr(cls, 'taps', (tap, ))
    if aligned_layers and tap not in taps:
        raise ValueError(
            f'{compared}, but a teacher of type={teacher["type"]!r} gives '
            f'{" and ".join(_TAPS[its] for its in taps)}. '
            f'{_TEACHERS[tap]} Or choose another distill_loss.')


def _check_loss(part: Distillation, distill_neck: Optional[dict],
                target: Optional[dict]) -> None:
    """Refuse a loss that does not fit its pairs, and options it ignores."""
    loss, student, teacher = part.loss, part.student, part.teacher
    kind = type(loss).__name__
    projects = getattr(loss, 'projects', True)
    if not projects and distill_neck is not None:
        raise ValueError(
            f'distill_neck={distill_neck!r}, but a {kind} compares relations '
            'between tokens, which need no projector. Set distill_neck=None.')
    if part.tap == 'qkv' and target is not None:
        raise ValueError(
            f'target={target!r} standardises features, but a {kind} compares '
            'queries, keys and values. Set target=None.')
    cls_weight = getattr(loss, 'cls_weight', None)
    if cls_weight is not None and not part.has_cls:
        lacking = ' and '.join(
            name for name, side in (('the student', student),
                                    ('the teacher', teacher))
            if not side.has_cls_token)
        raise ValueError(
            f'distill_loss: cls_weight={cls_weight!r} weighs CLS, which '
            f'{lacking} does not have. Leave it out.')
    # A student without patches is compared on the teacher's grid.
    num_visible = student.num_visible or student.num_patches or prod(
        teacher.patch_grid)
    if getattr(loss, 'positions', None) == 'masked' and (
            num_visible == student.num_patches):
        raise ValueError(
            "distill_loss: positions='masked', but the student sees all "
            "patches. Set mask_ratio in backbone, or positions='all'.")
    if not projects and num_visible + part.has_cls < 2:
        raise ValueError(
            f'distill_loss: a {kind} compares relations between tokens, but '
            'the student sees a single one of each image. Lower mask_ratio '
            'in backbone.')
    if hasattr(loss, 'match_heads'):
        loss.match_heads(student.embed_dims[part.tap], teacher.embed_dims,
                         teacher.num_heads)


def _check_generator(part: Distillation, generator: dict) -> None:
    """Refuse to generate where there is nothing to, or not from that."""
    given = f'generator={generator!r}'
    if part.student.images.units is not None:
        raise ValueError(f'{given} predicts features of patches, which a '
                         'student that is masked in regions does not have. '
                         'Set generator=None.')
    if part.tap != 'block' or part.neck is None:
        raise ValueError(
            f'{given} predicts outputs of blocks from projected ones, but a '
            f'{type(part.loss).__name__} does not compare such. Set '
            'generator=None.')
    if part.num_seen in (None, part.student.num_visible):
        raise ValueError(
            f'{given} predicts features of patches that only the teacher '
            'sees, but it sees the same as the student. Set '
            'teacher_mask_ratio below the mask_ratio of backbone, or '
            'generator=None.')
    if getattr(part.loss, 'cls_weight', None) is not None:
        raise ValueError(
            f'{given} predicts features of patches alone, so distill_loss: '
            f'cls_weight={part.loss.cls_weight!r} cannot weigh CLS there. '
            'Leave out one of them.')


def _check_no_duplicates(aligned_layers: Sequence,
                         loss_names: Sequence[str]) -> None:
    """Refuse a pair of blocks that is named twice."""
    twice = [name for name, n in Counter(loss_names).items() if n > 1]
    if twice:
        raise ValueError(
            f'aligned_layers={aligned_layers!r} names a pair of blocks more '
            f'than once ({", ".join(twice)}). Name each pair once; '
            'distill_loss.loss_weight weighs it.')


def _check_not_frozen(modules: Sequence[nn.Module],
                      aligned: List[int]) -> None:
    """Refuse to align blocks of the student that do not learn."""
    frozen = [
        index for index in aligned
        if not any(p.requires_grad for p in modules[index].parameters())
    ]
    if frozen:
        raise ValueError(
            f'aligned_layers: student blocks {frozen} are frozen '
            '(backbone.frozen_stages), so nothing can be taught to them. '
            'Align later blocks, or freeze fewer.')
