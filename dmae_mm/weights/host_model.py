"""The model of a config of mmpretrain, mmdet or mmseg, without a runner."""
import contextlib
import importlib
import os
import pickle
from typing import Iterator, Optional

import torch.nn as nn
from mmengine.config import Config
from mmengine.model import PretrainedInit
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import load_checkpoint

from dmae_mm import host
from dmae_mm.host import quietly
from dmae_mm.messages import one_line

from .pretrained import EXPORT

# Whose configs are understood, and how to get what they need.
SCOPES = dict(
    mmpretrain='pip install "dmae_mm[mm]"',
    mmseg='pip install "dmae_mm[mmseg]"',
    mmdet='it needs onedl-mmdetection and an mmcv with compiled ops '
    '(tools/install_mmcv_ops.py); in a clone of dmae_mm, `make venv '
    'WITH_OPS=1` installs both')
_WRITE_ANEW = (f'Write it anew: python {EXPORT} MODEL SRC DST --to mmpretrain '
               '(or mmseg).')


def read_config(path: str, cfg_options: dict) -> Config:
    """Read a config of a package that is known and installed."""
    cfg = host.read_config(path, cfg_options)
    model, scope = cfg.get('model'), cfg.get('default_scope')
    if not isinstance(model, dict) or not isinstance(
            model.get('backbone'), dict):
        raise ValueError(f'The config {path} has no model.backbone.')
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


def name_checkpoint(cfg: Config, checkpoint: str) -> str:
    """Put the checkpoint where the config has its own.

    Returns:
        str: The option.
    """
    model, backbone = cfg.model, cfg.model.backbone
    found = None
    for owner, path in ((backbone, 'model.backbone'), (model, 'model')):
        init_cfg = owner.get('init_cfg') or []
        for part in [init_cfg] if isinstance(init_cfg, dict) else init_cfg:
            if part.get('type') in ('Pretrained', PretrainedInit):
                found = found or (part, 'checkpoint',
                                  f'{path}.init_cfg.checkpoint')
        if owner.get('pretrained'):
            found = found or (owner, 'pretrained', f'{path}.pretrained')
    if found is None:
        cfg.load_from = checkpoint
        return 'load_from'
    if cfg.get('load_from'):
        raise ValueError(
            f'The config has {found[2]} and load_from={cfg.load_from!r}, '
            'which is loaded last and replaces it. Leave out one of them: '
            '--cfg-options load_from=None')
    owner, key, option = found
    owner[key] = checkpoint
    return option


def build_model(cfg: Config, path: str) -> nn.Module:
    """Build the model, as a runner does."""
    if cfg.get('data_preprocessor') is not None:
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    try:  # whatever a class raises
        with quietly(), DefaultScope.overwrite_default_scope(
                cfg.default_scope):
            model = MODELS.build(cfg.model)
    except Exception as error:
        raise ValueError(f'The model of {path} cannot be built: '
                         f'{one_line(error)}') from None
    if getattr(model, 'distillation', None) is not None:
        model.distillation = None  # the teacher's file is another matter
    return model


def load_model(model: nn.Module, cfg: Config) -> Optional[str]:
    """Initialise and load the model, as a runner does.

    Returns:
        str | None: What went wrong, in one line.
    """
    try:  # whatever a class raises
        with quietly(), _no_unpickling(), DefaultScope.overwrite_default_scope(
                cfg.default_scope):
            model.init_weights()
            if cfg.get('load_from'):
                load_checkpoint(model, cfg.load_from, 'cpu')
    except pickle.UnpicklingError:
        return ('MMEngine would unpickle this file, which could run code from '
                f'it; here it must not. {_WRITE_ANEW}')
    except Exception as error:
        stopped = f'Loading stops with {one_line(error)}.'
        if 'is not in the pretrained model' not in stopped:
            return stopped
        return (f"{stopped} Where its names begin with 'module.', of "
                f'DistributedDataParallel, MMEngine finds no prefix. '
                f'{_WRITE_ANEW}')
    return None


@contextlib.contextmanager
def _no_unpickling() -> Iterator[None]:
    """Keep MMEngine from unpickling what torch refuses to."""
    name = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
    before = os.environ.get(name)
    os.environ[name] = '1'
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before
