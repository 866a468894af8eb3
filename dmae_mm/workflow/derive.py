"""From images, teachers and a student to one complete config."""
import os.path as osp
from dataclasses import dataclass
from typing import Any, List, Optional, Sequence, Union

import numpy as np
from mmengine.config import Config, ConfigDict

from dmae_mm.datasets.image_survey import ImageSurvey
from dmae_mm.datasets.survey_consequences import HARDLY_LARGER, MAX_BROKEN
from dmae_mm.host import configs_root, read_config
from dmae_mm.launch.sections import entries, read_sections
from dmae_mm.options import is_finite_number

from .machine import Machine
from .schedule_choice import choose_schedule
from .student_choice import StudentChoice
from .teacher_choice import TeacherChoice

# Patches, or regions, on a side that images get at least, unasked.
FEWEST_PATCHES = 7
# Images whose shorter side is a smaller part of the student's than this get a
# smaller student's image.
MUCH_SMALLER = 0.5
# Crops of images that are hardly larger than the crop: their smallest part.
LARGER_CROPS = (0.5, 1.0)
# A decoder of more than so many times the student's parameters is made light.
HEAVY_DECODER, LIGHT_DEPTH, HEAD_WIDTH = 2, 2, 32
# Images of a rehearsal: with a GPU, and without.
QUICK_IMAGES = {True: 4096, False: 512}
FEWEST_IMAGES = 8


@dataclass(frozen=True)
class Derived:
    """A config, and why it is as it is.

    Attributes:
        config (Config): Complete but for ``work_dir``.
        reasons (list[str]): A line for each choice.
        warnings (list[str]): A line for each thing to think about.
        student_kind (str): See :class:`StudentChoice`: 'masked', 'features',
            'simmim' or 'spark'.
    """
    config: Config
    reasons: List[str]
    warnings: List[str]
    student_kind: str


def derive(survey: ImageSurvey,
           teachers: Sequence[TeacherChoice],
           student: StudentChoice,
           *,
           size: Optional[int] = None,
           epochs: Optional[int] = None,
           quick: bool = False) -> Derived:
    """Make one complete config of what a person chose.

    All numbers are those of the recipes in ``configs``, fitted to the images,
    the student and this machine. Neither student nor teachers are built with
    their weights.

    Args:
        survey (ImageSurvey): The images.
        teachers (Sequence[TeacherChoice]): One or more.
        student (StudentChoice): The student.
        size (int, optional): Height and width of the student's images.
            Defaults to None: the student's own, or a smaller one for images
            that are much smaller.
        epochs (int, optional): Defaults to None: those of the recipe, or
            fewer with ``quick``.
        quick (bool): A rehearsal of minutes, on a part of the images.
            Defaults to False.

    Returns:
        Derived: The config, and the reasons for it.

    Raises:
        ValueError: If the size does not fit, images are too few or too many
            of them broken, or ``epochs`` is none.
    """
    _check_images(survey)
    _check_number('--size', size)
    _check_number('--epochs', epochs)
    machine = Machine.here()
    reasons = [f'student: {student.note}']
    warnings = _larger_than(student, teachers)

    size = _choose_size(survey, student, size, reasons)
    student = student.at(size, survey.channels)
    cfg = _recipe(student.configs)
    _set_model(cfg, student, size, survey.channels, reasons)
    _set_teachers(cfg, student, teachers, size, reasons)
    if survey.channels != 3:
        _set_channels(cfg, survey.channels, warnings)
    num_images = _set_images(cfg, survey, size, quick, machine, reasons)
    reasons += choose_schedule(
        cfg, num_images, epochs, quick, machine, size,
        learnt=student.parameters,
        frozen=sum(each.parameters for each in teachers))
    if student.kind == 'masked':
        _add_pictures(cfg, num_images, reasons)
    return Derived(_tidy(cfg), reasons, warnings, student.kind)


def _check_images(survey: ImageSurvey) -> None:
    if survey.num_images < FEWEST_IMAGES:
        raise ValueError(
            f'{survey.root!r} holds {survey.num_images} images. A training '
            f'needs at least {FEWEST_IMAGES}, and thousands to be of use: add '
            'images.')
    opened = len(survey.heights) + len(survey.broken)
    if len(survey.broken) > MAX_BROKEN * opened:
        path, reason = survey.broken[0]
        raise ValueError(
            f'{len(survey.broken)} of {opened} images looked at in '
            f'{survey.root!r} are broken, such as {path!r} ({reason}); more '
            f'than {MAX_BROKEN:.0%} would end the training. Repair or remove '
            'them.')


def _check_number(option: str, value: Any) -> None:
    if value is not None and (type(value) is not int or value < 1):
        raise ValueError(f'{option} {value!r} is not a whole number of at '
                         'least 1.')


def _larger_than(student: StudentChoice,
                 teachers: Sequence[TeacherChoice]) -> List[str]:
    return [
        f'the student has {_millions(student.parameters)} parameters, more '
        f'than the {_millions(teacher.parameters)} of its teacher '
        f'{teacher.name}: distillation is for smaller students'
        for teacher in teachers if student.parameters > teacher.parameters
    ]


def _millions(number: int) -> str:
    return f'{number / 1e6:.3g} million'


def _choose_size(survey: ImageSurvey, student: StudentChoice,
                 size: Optional[int], reasons: List[str]) -> int:
    if size is not None:
        reasons.append(f'size {size}: as given')
        return size
    own, unit = student.size, student.unit
    side = int(np.median(np.minimum(survey.heights, survey.widths)))
    if side >= MUCH_SMALLER * own or not student.shrinks:
        reasons.append(f'size {own}: the student\'s own; the median of the '
                       f'images\' shorter sides is {side}')
        return own
    least = FEWEST_PATCHES * (unit if student.kind == 'masked' else 16)
    size = min(own, max(round(side / unit) * unit, -(-least // unit) * unit))
    reasons.append(
        f'size {size} instead of the student\'s {own}: the median of the '
        f'images\' shorter sides is {side}, less than half of {own}; at '
        f'least {least}, a multiple of {unit}')
    return size


def _recipe(names: Sequence[str]) -> Config:
    """The sections of some config files together."""
    root = configs_root()
    if root is None:
        raise FileNotFoundError('The configs of dmae_mm lie neither beside '
                                'the package nor in _dmae_mm/.mim: install '
                                'it anew.')
    cfg = Config()
    for name in names:
        for key, section in read_config(str(root / 'configs' / name)).items():
            cfg[key] = section
    return cfg


def _set_model(cfg: Config, student: StudentChoice, size: int, channels: int,
               reasons: List[str]) -> None:
    """The student, and its decoder and head."""
    model, unit = cfg.model, student.unit
    backbone = dict(student.backbone)
    stock = model.get('backbone') or {}
    for key in ('mask_ratio', 'init_cfg'):
        # A HiViT and models of timm initialise themselves.
        if key in stock and (key == 'mask_ratio'
                             or backbone['type'] == 'MAEViT'):
            backbone.setdefault(key, stock[key])
    model.backbone = backbone
    if student.kind == 'masked':
        model.neck.update(
            num_patches=(size // unit)**2,
            patch_size=unit,
            embed_dim=student.width)
        model.head.patch_size = unit
        if channels != 3:
            model.neck.in_chans = model.head.in_channels = channels
        reasons.append(
            f'patches of {unit} pixels, {size // unit} x {size // unit}, of '
            f'which {backbone["mask_ratio"]:.0%} are hidden')
        _lighten(model.neck, student, reasons)
    elif student.kind == 'simmim':
        model.neck.update(in_channels=student.width)
        for _, section in entries(cfg.train_dataloader):
            if isinstance(section, dict) and section.get(
                    'type') == 'SimMIMMaskGenerator':
                section.input_size = size
    elif student.kind == 'spark':
        model.input_size = size


def _lighten(neck: ConfigDict, student: StudentChoice,
             reasons: List[str]) -> None:
    """A decoder in proportion to the student."""
    width, depth = neck.decoder_embed_dim, neck.decoder_depth
    # Attention and MLP of a block have 4 and 8 matrices of this width.
    parameters = 12 * depth * width**2
    if parameters <= HEAVY_DECODER * student.parameters:
        reasons.append(
            f'decoder of {depth} blocks, {width} wide: the paper\'s')
        return
    light = min(width, max(HEAD_WIDTH, student.width // HEAD_WIDTH
                           * HEAD_WIDTH))
    neck.update(
        decoder_embed_dim=light,
        decoder_depth=LIGHT_DEPTH,
        decoder_num_heads=light // HEAD_WIDTH)
    reasons.append(
        f'decoder of {LIGHT_DEPTH} blocks, {light} wide: the paper\'s '
        f'{depth} blocks, {width} wide, would have '
        f'{_millions(parameters)} parameters, the student has '
        f'{_millions(student.parameters)}')


def _set_teachers(cfg: Config, student: StudentChoice,
                  teachers: Sequence[TeacherChoice], size: int,
                  reasons: List[str]) -> None:
    model = cfg.model
    sections = [
        teacher.for_maps(size) if student.kind == 'features' else dict(
            teacher.section) for teacher in teachers
    ]
    shared = ('aligned_layers', 'distill_neck', 'distill_loss')
    unit = 'block' if student.kind == 'masked' else 'stage'
    pairs = ', '.join(
        f'the student\'s {_place(ours, unit)} and the teacher\'s '
        f'{_place(its, "block")}' for ours, its in model.aligned_layers)
    reasons.append(f'aligned: {pairs}, as in the recipe')
    for teacher, section in zip(teachers, sections):
        if teacher.note:
            reasons.append(f'teacher {teacher.name}: {teacher.note}')
        seen = section.get('img_size')
        if seen:
            reasons.append(f'teacher {teacher.name}: it sees images of {seen} '
                           f'pixels, its own {teacher.size} would cost more')
    if len(teachers) == 1:
        model.teacher = sections[0]
        return
    parts = {key: model.pop(key) for key in shared}
    model.pop('teacher')
    model.teachers = {
        teacher.short_name: dict(teacher=section, **parts)
        for teacher, section in zip(teachers, sections)
    }
    reasons.append(f'{len(teachers)} teachers, '
                   f'{", ".join(model.teachers)}: their losses are summed')


def _place(block: Union[int, float], unit: str) -> str:
    if isinstance(block, float):
        return f'{unit} at {block:g} of its depth'
    return f'last {unit}' if block == -1 else f'{unit} {block}'


def _set_channels(cfg: Config, channels: int, warnings: List[str]) -> None:
    """For images whose channels are no colours."""
    seen = [min(index, channels - 1) for index in range(3)]
    for option, section in entries(cfg.model):
        if option.rpartition('.')[2] == 'teacher' and channels > 1:
            section['channels'] = seen
    cfg.data_preprocessor.update(mean=[127.5], std=[127.5], to_rgb=False)
    _transform(cfg, 'LoadImageOrSkip').channels = channels
    warnings.append(
        f'images of {channels} channels: teachers of colour images see the '
        f'channels {seen}, and all are normalised by 127.5; others are '
        'options, model.teacher.channels and data_preprocessor.mean and std')


def _set_images(cfg: Config, survey: ImageSurvey, size: int, quick: bool,
                machine: Machine, reasons: List[str]) -> int:
    """Folder and crops; how many images are used."""
    dataset = cfg.train_dataloader.dataset
    dataset.data_root = osp.abspath(survey.root)
    num_images, limit = survey.num_images, QUICK_IMAGES[machine.accelerator]
    if quick and num_images > limit:
        dataset.update(type='SpreadImages', num_images=limit)
        num_images = limit
        reasons.append(f'quick: {limit} of {survey.num_images} images')
    value_range = survey.value_range
    if value_range is not None:
        _transform(cfg, 'LoadImageOrSkip').value_range = tuple(value_range)
        reasons.append(f'values from {value_range[0]} to {value_range[1]} '
                       'become 0 to 255: no image has larger ones')
    crop = _transform(cfg, 'FastRandomResizedCrop')
    crop.scale = size
    side = int(np.median(np.minimum(survey.heights, survey.widths)))
    smallest, largest = crop.crop_ratio_range
    if side < HARDLY_LARGER * size and smallest < LARGER_CROPS[0]:
        crop.crop_ratio_range = LARGER_CROPS
        reasons.append(
            f'crops of {LARGER_CROPS[0]:g} to {LARGER_CROPS[1]:g} of an '
            f'image: a shorter side of {side} (median) is hardly more than '
            f'{size}, and smaller parts would be enlarged')
    else:
        reasons.append(f'crops of {smallest:g} to {largest:g} of an image: '
                       'the recipe\'s')
    reasons.append(f'{crop.flip_prob:.0%} of the crops are flipped: set '
                   'flip_prob=0 where left and right differ (text, digits)')
    return num_images


def _transform(cfg: Config, name: str) -> ConfigDict:
    return next(step for step in cfg.train_dataloader.dataset.pipeline
                if step['type'] == name)


def _add_pictures(cfg: Config, num_images: int, reasons: List[str]) -> None:
    """Ten times in a training: what the student makes of four images."""
    batches = -(-num_images // cfg.train_dataloader.batch_size)
    interval = max(1, batches * cfg.train_cfg.max_epochs // 10)
    cfg.default_hooks.pictures = dict(
        type='ReconstructionVisualizationHook', interval=interval)
    reasons.append(f'pictures of reconstructions every {interval} iterations, '
                   'ten times')


def _tidy(cfg: Config) -> Config:
    """Without variables of the recipes, nor scopes that are the default."""
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()
                    if key != '_scope_'}
        if isinstance(value, (list, tuple)):
            return type(value)(map(plain, value))
        # Products such as 2.5e-4 * 1024 / 256 have digits of no meaning.
        if isinstance(value, float) and is_finite_number(value):
            return float(f'{value:.12g}')
        return value

    return Config(plain(Config(read_sections(cfg)).to_dict()))
