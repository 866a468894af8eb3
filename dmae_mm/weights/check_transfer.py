"""Load a checkpoint as a runner would, and find out what arrived."""
import dataclasses
import importlib
from typing import List, Tuple

import torch.nn as nn
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint

from dmae_mm.host import (build, quietly, read_model_config,
                          without_teachers)
from dmae_mm.messages import first_few, one_line

from .download import local_path
from .pretrained_option import (EXPORT, PretrainedOption, name_checkpoint,
                                pretrained_options, read_for_host)
from .origin import (Origin, normalisation_of, origin_of,
                     preprocessing_of_config)
from .positions import other_options
from .tensor_file import TensorFile, read_tensor_file
from .transfer import CHANGED, LEFT, LOADED, MISSED, RESIZED, compare

# Whose configs are understood, and how to get what they need.
SCOPES = dict(
    mmpretrain='pip install "dmae_mm[mm]"',
    mmseg='pip install "dmae_mm[mmseg]"',
    mmdet='it needs onedl-mmdetection and an mmcv with compiled ops '
    '(tools/install_mmcv_ops.py); in a clone of dmae_mm, `make venv '
    'WITH_OPS=1` installs both')
_WRITE_ANEW = (f'Write it anew: python {EXPORT} MODEL SRC DST --to mmpretrain '
               '(or mmseg).')


def check_transfer(config: str,
                   checkpoint: str,
                   cfg_options: dict = dict(),
                   verbose: bool = False) -> Tuple[List[str], str]:
    """Does a checkpoint arrive in the backbone of a config, all of it?

    Args:
        config (str): Path of a config of mmpretrain, mmdet or mmseg.
        checkpoint (str): Path or http(s) URL. It takes the place of the file
            that the config names, or that of ``load_from``.
        cfg_options (dict): Changes to the config. Defaults to {}.
        verbose (bool): Whether to list every tensor instead of groups.
            Defaults to False.

    Returns:
        tuple[list[str], str]: Lines of a table of what became of each tensor,
        and why not all arrived and what to do, or ''.

    Raises:
        ImportError: If the package that the config is for is not there.
        OSError: If a file cannot be read or fetched.
        ValueError: If the config cannot be built, or MMEngine could not read
            the file.
    """
    cfg = read_toolbox_config(config, cfg_options)
    path = local_path(checkpoint)
    name = name_checkpoint(cfg, path)
    cfg.model = without_teachers(cfg.model)  # their files are another matter
    with quietly():
        model = build(cfg.model, f'The model of {config}', cfg.default_scope)
    backbone = model.backbone
    # A MaskedTimmViT reads the file of its init_cfg itself.
    reads_itself = hasattr(backbone, 'weights_of') and name.startswith(
        'model.backbone.')
    file = (read_tensor_file if reads_itself else read_for_host)(checkpoint)
    option = next((option for option in pretrained_options(model)
                   if option.checkpoint == path),
                  PretrainedOption(name, path, 'backbone.'))
    stopped = _load(model, cfg)
    origin, tensors = origin_of(file.meta, file.tensors), file.tensors
    if reads_itself and not stopped:  # it has renamed and resampled them
        origin, tensors = Origin(), backbone.weights_of(file)
    transfer = compare(backbone, tensors, option.prefix, origin)
    option = dataclasses.replace(option, name=name, prefix=transfer.prefix)

    lines = [
        f'{config}: {cfg.default_scope}, {type(backbone).__name__}',
        f'{file.source} (sha256 {file.sha256[:8]}) as {name}, prefix '
        f'{transfer.prefix!r}', *transfer.lines(file.ignored, verbose),
        *_other_images(cfg, file)
    ]
    arrived = len(transfer.names(LOADED, RESIZED))
    others = other_options(backbone, origin)
    if arrived and transfer.arrived and not (stopped or others):
        resized = len(transfer.names(RESIZED))
        return lines + [f'All {arrived} backbone tensors arrived ({resized} '
                        'resized).'], ''
    needed = arrived + len(transfer.names(*MISSED))
    reason = (reads_itself and stopped) or option.misfit(
        backbone, file) or stopped or _overwritten(
            type(backbone).__name__, transfer.names(CHANGED, LEFT), option)
    return lines, f'{arrived} of {needed} backbone tensors arrived. {reason}'


def _other_images(cfg: Config, file: TensorFile) -> List[str]:
    """A line if the file knows other images than the config gives."""
    origin = normalisation_of(file)
    if origin.mean is None:
        return []
    given = preprocessing_of_config(cfg.model, len(origin.mean))
    known = dict(mean=origin.mean, std=origin.std, to_rgb=origin.to_rgb)
    if origin.to_rgb is None:
        del known['to_rgb'], given['to_rgb']
    if known == given:
        return []
    return [f'Note: it was trained on images of {_listed(known)} '
            f'({origin.said_by}), the data_preprocessor here has '
            f'{_listed(given)}. Give it the same (to_rgb is bgr_to_rgb in '
            'mmdet and mmseg).']


def _listed(values: dict) -> str:
    return ', '.join(f'{name}={list(v) if isinstance(v, tuple) else v}'
                     for name, v in values.items())


def read_toolbox_config(path: str, cfg_options: dict) -> Config:
    """Read a config of a package that is known and installed.

    As :func:`read_model_config`, and raises ImportError if the package cannot
    be imported, ValueError if it is another.
    """
    cfg = read_model_config(path, cfg_options)
    scope = cfg.get('default_scope')
    if scope not in SCOPES:
        raise ValueError(f'The config {path} has default_scope={scope!r}. '
                         f'Known are {", ".join(map(repr, SCOPES))}.')
    try:
        with quietly():
            importlib.import_module(f'{scope}.models')
    # A package that does not fit the others can fail in any way.
    except Exception as error:
        raise ImportError(f'{scope} cannot be imported ({one_line(error)}): '
                          f'{SCOPES[scope]}.') from None
    return cfg


def _load(model: nn.Module, cfg: Config) -> str:
    """Initialise and load the model, as a runner does.

    Returns:
        str: What went wrong, in one line; '' if nothing did.
    """
    try:  # whatever a class raises
        with quietly(), DefaultScope.overwrite_default_scope(
                cfg.default_scope):
            model.init_weights()
            if cfg.get('load_from'):
                load_checkpoint(model, cfg.load_from, 'cpu')
    except Exception as error:
        stopped = f'Loading stops with {one_line(error)}.'
        if 'is not in the pretrained model' not in stopped:
            return stopped
        return (f"{stopped} Where its names begin with 'module.', of "
                f'DistributedDataParallel, MMEngine finds no prefix. '
                f'{_WRITE_ANEW}')
    return ''


def _overwritten(backbone: str, names: List[str],
                 option: PretrainedOption) -> str:
    """Why tensors of a file that fits are not in a backbone."""
    if option.in_list:
        return (f'{backbone} overwrites {first_few(names)} if init_cfg is a '
                "list. Give model.backbone.init_cfg=dict(type='Pretrained', "
                '...) alone.')
    return (f'{option.name} names a file that fits, but {backbone} does not '
            f'have its {first_few(names)}: its init_weights() overwrites or '
            'never loads them. Choose another type of backbone, or '
            'load_from=CHECKPOINT instead.')
