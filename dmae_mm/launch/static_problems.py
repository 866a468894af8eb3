"""What is wrong with a config, as far as can be seen without building it."""
from typing import Any, Iterator, List, Optional

from mmengine.config import Config
from mmengine.registry import FUNCTIONS

from dmae_mm.engine.schedule_notes import schedulers
from dmae_mm.models.students import MASKED_STUDENTS
from dmae_mm.models.timm_vits import default_img_size
from dmae_mm.options import is_finite_number

from .missing_files import missing_files
from .platform_notes import platform_problems
from .sections import DATALOADERS, entries, hooks, shown

# Larger numbers in `model`, or of workers, would keep the machine busy for
# hours before anything fails.
LARGEST, MOST_WORKERS = 10**6, 1024


def static_problems(cfg: Config) -> List[str]:
    """What can be seen without building anything.

    Args:
        cfg (Config): Completed.

    Returns:
        list[str]: A sentence for each problem, with its option.
    """
    return [
        *_wrong_numbers(cfg), *_no_sections(cfg), *_normalisation(cfg),
        *_crop_size(cfg), *_mask_size(cfg), *missing_files(cfg),
        *platform_problems(cfg)
    ]


def together(problems: List[str]) -> str:
    """All that is wrong with a config as one message; not for none."""
    return problems[0] if len(problems) == 1 else (
        'it cannot be trained:\n- ' + '\n- '.join(problems))


def _wrong_numbers(cfg: Config) -> Iterator[str]:
    for option, value in entries(cfg.model, 'model'):
        if type(value) is int and abs(value) > LARGEST:
            yield (f'{option}={value} is beyond any model: at most {LARGEST} '
                   'is accepted')
    legal = {'randomness.seed': (0, 2**32 - 1)}
    for key in ('max_epochs', 'max_iters'):
        legal[f'train_cfg.{key}'] = (1, None)
    for name in DATALOADERS:
        legal[f'{name}.batch_size'] = (1, None)
        legal[f'{name}.num_workers'] = (0, MOST_WORKERS)
    for option, (least, most) in legal.items():
        name, _, key = option.partition('.')
        value = (cfg.get(name) or {}).get(key)
        if value is not None and (type(value) is not int or value < least or
                                  (most is not None and value > most)):
            yield f'{option}={value!r} is not an int ' + (
                f'of at least {least}' if most is None else
                f'from {least} to {most}')


def _no_sections(cfg: Config) -> Iterator[str]:
    """Values where only a dict with a ``type`` makes sense."""
    sections = {'model': cfg.model, **hooks(cfg)}
    for name in DATALOADERS:
        if cfg.get(name) is not None:
            for key in ('dataset', 'sampler'):
                sections[f'{name}.{key}'] = cfg[name].get(key)
            if 'collate_fn' in cfg[name]:
                sections[f'{name}.collate_fn'] = collate = cfg[name].collate_fn
                kind = collate.get('type') if isinstance(collate, dict) else ''
                if kind and isinstance(kind, str) and (
                        FUNCTIONS.get(kind) is None):
                    yield (f'{name}.collate_fn.type={kind!r} does not exist. '
                           "Choose 'default_collate' or 'pseudo_collate'")
    if 'constructor' not in cfg.optim_wrapper:
        sections['optim_wrapper.optimizer'] = cfg.optim_wrapper.get(
            'optimizer')
    for option, scheduler in schedulers(cfg).items():
        parts = scheduler.values() if isinstance(scheduler, dict) else ()
        if not parts or not all(
                isinstance(part, (dict, list, tuple)) for part in parts):
            sections[option] = scheduler  # else: those of several optimizers
    for option, section in sections.items():
        # A config written in Python may hold the object itself.
        if section is None or isinstance(
                section, (str, int, float, list, tuple)) or (
                    isinstance(section, dict) and 'type' not in section):
            yield f"{option}={shown(section)} is not a dict with a 'type'"
    custom = cfg.get('custom_hooks') or []
    if not isinstance(custom, (list, tuple)):
        yield f'custom_hooks={custom!r} is not a list'
    if not isinstance(cfg.get('default_scope', ''), str):
        yield (f'default_scope={cfg.default_scope!r} is not the name of a '
               "package, such as 'mmpretrain'")


def _normalisation(cfg: Config) -> Iterator[str]:
    """Pixels must stay numbers: a loss that is none would not say why."""
    for option, section in (('data_preprocessor',
                             cfg.get('data_preprocessor')),
                            ('model.data_preprocessor',
                             cfg.model.get('data_preprocessor'))):
        for key in ('mean', 'std'):
            given = section.get(key) if isinstance(section, dict) else None
            numbers = [value for _, value in entries([given])
                       if value is not None
                       and not isinstance(value, (list, tuple))]
            if not all(is_finite_number(number) and (
                    number > 0 or key == 'mean') for number in numbers):
                yield (f'{option}.{key}={given!r} must be finite numbers'
                       + ' above 0' * (key == 'std'))


def _crop_size(cfg: Config) -> Iterator[str]:
    """A crop that masked students, made for a size, cannot take.

    They neither resample their positions nor have them for other images.
    """
    backbone = cfg.model.get('backbone')
    if not isinstance(backbone, dict) or _name(backbone) not in [
            student.__name__ for student in MASKED_STUDENTS]:
        return
    size = _square(backbone.get('img_size') or (
        default_img_size(backbone['model_name'])
        if 'model_name' in backbone else 224))
    for option, pipeline in entries(cfg.get('train_dataloader'),
                                    'train_dataloader'):
        if option.endswith('.pipeline') and isinstance(pipeline,
                                                       (list, tuple)):
            crop = _last_size(pipeline)
            if size and crop and _square(pipeline[crop[0]][crop[1]]) != size:
                index, key = crop
                given = pipeline[index][key]
                yield (f'{option}.{index}.{key}={given!r} gives images of '
                       f'another size than model.backbone.img_size={size}: '
                       f'set {option}.{index}.{key}={size}, or img_size and, '
                       'where there is a decoder, model.neck.num_patches, '
                       'which is (img_size / patch_size)^2')


def _mask_size(cfg: Config) -> Iterator[str]:
    """Images and masks that students of SimMIM and SparK cannot take."""
    backbone = cfg.model.get('backbone')
    if _name(backbone) == 'SimMIMSwinTransformer':
        owner = 'model.backbone.img_size'
        size = _square(backbone.get('img_size', 224))
    elif _name(backbone) in ('SparseResNet', 'SparseConvNeXt'):
        owner, size = 'model.input_size', cfg.model.get('input_size') or 224
    else:
        return
    for option, pipeline in entries(cfg.get('train_dataloader'),
                                    'train_dataloader'):
        if not option.endswith('.pipeline') or not isinstance(
                pipeline, (list, tuple)):
            continue
        sizes = [_last_size(pipeline)]
        masks = [index for index, transform in enumerate(pipeline)
                 if _name(transform) == 'SimMIMMaskGenerator']
        if owner == 'model.backbone.img_size':
            sizes += [(index, 'input_size') for index in masks]
            if not masks:
                yield (f'{option} has no SimMIMMaskGenerator, whose mask '
                       'a SimMIMSwinTransformer needs: put one in front of '
                       'PackInputs')
        for index, key in filter(None, sizes):
            given = pipeline[index].get(key, 192)
            if _square(given) != size:
                yield (f'{option}.{index}.{key}={given!r} is another size '
                       f'than {owner}={size}: make them equal')


def crop_size(cfg: Config) -> Optional[int]:
    """Height and width of the images that a training sees.

    Args:
        cfg (Config): Of a training.

    Returns:
        int | None: In pixels; None where they are not square, or not known.
    """
    for option, pipeline in entries(cfg.get('train_dataloader'),
                                    'train_dataloader'):
        if option.endswith('.pipeline') and isinstance(pipeline,
                                                       (list, tuple)):
            found = _last_size(pipeline)
            size = _square(pipeline[found[0]][found[1]]) if found else None
            return size if isinstance(size, int) else None
    return None


def _last_size(pipeline: list) -> Optional[tuple]:
    """Place and key of what decides the size of images, where it is known."""
    found = None
    for index, transform in enumerate(pipeline):
        name = _name(transform)
        if 'Crop' in name or name in ('Resize', 'Pad', 'ResizeEdge'):
            keys = [key for key in ('scale', 'crop_size', 'size')
                    if transform.get(key) is not None]
            sure = name.endswith(('RandomResizedCrop', 'CenterCrop',
                                  'RandomCrop')) or (
                name == 'Resize' and not transform.get('keep_ratio'))
            found = (index, keys[0]) if sure and keys else None
    return found


def _name(section: Any) -> str:
    """'MAEViT' of a section of this type, whatever its scope."""
    kind = section.get('type') if isinstance(section, dict) else ''
    return getattr(kind, '__name__', str(kind)).rpartition('.')[2]


def _square(size: Any) -> Any:
    """224 for 224 and for (224, 224); other values as they are."""
    if isinstance(size, (list, tuple)) and len({*size}) == 1:
        return size[0]
    return size
