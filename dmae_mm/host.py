"""What is asked of the packages around this one: MMEngine and mmpretrain."""
import contextlib
import difflib
import io
import logging
import os.path as osp
import re
import warnings
from pathlib import Path
from typing import Iterator, Optional, Tuple

import torch.nn as nn
from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.apis.model import ModelHub, list_models

from .config_text import refuse_repeated_keys
from .messages import one_line


# How the names of checkpoints end.
CHECKPOINTS = ('.pth', '.pt', '.bin', '.safetensors')


class ConfigOptions(DictAction):
    """``--cfg-options`` of a command line: MMEngine's, with explained errors.

    MMEngine's own ends in a traceback, and reads a dict as text or without
    end.
    """

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        for text in values:
            option, _, value = text.partition('=')
            if re.search(r'(^|[\[(,])[\s\'"]*\{|dict\(', value):
                parser.error(
                    f'{option_string} {option}: a dict cannot be given as one '
                    f'value. Give its keys one by one, as in {option}.type='
                    f'NAME {option}.KEY=VALUE, or write a config with _base_')
            try:
                super().__call__(parser, namespace, [text], option_string)
            except (ValueError, AssertionError, RecursionError):
                parser.error(f'{option_string} takes KEY=VALUE pairs, with '
                             f'KEY=[a,b] for lists; {text!r} is none')


def read_config(path: str, cfg_options: dict = dict()) -> Config:
    """Read a config file.

    Args:
        path (str): The file.
        cfg_options (dict): What to write into it, by dotted names. Defaults
            to {}.

    Returns:
        Config: The config.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or not be changed that way.
    """
    if path.lower().endswith(CHECKPOINTS):
        raise ValueError(f'{path} is a checkpoint, not a config: give the '
                         'config first, then the checkpoint.')
    if not osp.isfile(path):
        raise FileNotFoundError(f'There is no config {path!r}.')
    refuse_repeated_keys(path)
    try:  # anything can go wrong in a config: it is Python
        with quietly():
            cfg = Config.fromfile(path)
            cfg.merge_from_dict(cfg_options)
    except Exception as error:
        raise ValueError(
            f'The config {path} cannot be read: {one_line(error)}') from None
    return cfg


def read_named_config(name: str, cfg_options: dict = dict()
                      ) -> Tuple[Config, Optional[str]]:
    """Read a config file, or one of mmpretrain's model zoo.

    Args:
        name (str): Path of the file, or a name of the zoo.
        cfg_options (dict): What to write into it, by dotted names. Defaults
            to {}.

    Returns:
        tuple[Config, str | None]: The config, and where the zoo has its
        weights.

    Raises:
        FileNotFoundError: If it is a path, and there is no such file.
        ValueError: If there is no such name, or the config cannot be read.
    """
    if osp.isfile(name) or name.endswith('.py') or osp.dirname(name):
        return read_config(name, cfg_options), None
    try:
        found = ModelHub.get(name)
    except ValueError:
        similar = difflib.get_close_matches(name, list_models(), 3)
        hint = (f'Did you mean {" or ".join(map(repr, similar))}?'
                if similar else 'mmpretrain.list_models() lists the names')
        raise ValueError(
            f'{name!r} is neither a config file nor a name in '
            f"mmpretrain's model zoo. {hint}") from None
    found.config.merge_from_dict(cfg_options)
    return found.config, found.weights


def read_model_config(path: str, cfg_options: dict = dict()) -> Config:
    """Read a config whose model has a backbone.

    Args:
        path (str): The file.
        cfg_options (dict): What to write into it, by dotted names. Defaults
            to {}.

    Returns:
        Config: The whole config, with the data preprocessor in the model, as
        a runner puts it there.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or not be changed that way, or has
            no ``model.backbone``.
    """
    cfg = read_config(path, cfg_options)
    complete_model(cfg, path)
    return cfg


def complete_model(cfg: Config, path: str) -> None:
    """Put the data preprocessor into the model, as a runner does.

    Args:
        cfg (Config): Changed in place.
        path (str): Where it is from, for the error.

    Raises:
        ValueError: If it has no ``model.backbone``.
    """
    model = cfg.get('model')
    if not isinstance(model, dict) or not isinstance(
            model.get('backbone'), dict):
        raise ValueError(f'The config {path} has no model.backbone.')
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)


def without_teachers(model: dict) -> dict:
    """The config of a model that teaches itself: no teacher's file is read.

    Args:
        model (dict): Config of a model, perhaps a distilled one.

    Returns:
        dict: A copy.
    """
    given = [name for name in ('teacher', 'teachers') if model.get(name)]
    if not given:
        return model
    none = dict(
        teacher=None,
        teachers=None,
        teacher_dropping=None,
        aligned_layers=[],
        logit_loss=None)
    return dict(
        model, **{name: none[name] for name in none if name in model})


def build(cfg: dict, what: str, scope: str = 'mmpretrain') -> nn.Module:
    """Build a module of mmpretrain or of another package of OpenMMLab.

    Args:
        cfg (dict): Its config.
        what (str): How an error calls it.
        scope (str): Whose registry is asked: 'mmpretrain' (the default),
            'mmdet' or 'mmseg'; its modules have to be imported.

    Returns:
        nn.Module: The module.

    Raises:
        ValueError: If it cannot be built, whatever its class raises then.
    """
    try:
        with DefaultScope.overwrite_default_scope(scope):
            return MODELS.build(cfg)
    except Exception as error:
        raise ValueError(
            f'{what} cannot be built: {one_line(error)}') from None


@contextlib.contextmanager
def quietly(*names: str) -> Iterator[None]:
    """Without the reports of libraries on what they build and load.

    Args:
        *names (str): Of further loggers that report, beside MMEngine's.
    """
    loggers = [MMLogger.get_current_instance(), *map(logging.getLogger, names)]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(
                io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def unwrapped_model(runner) -> nn.Module:
    """The model that a runner trains, without what wraps it, such as DDP."""
    model = runner.model
    return model.module if is_model_wrapper(model) else model


def use_plain_numbers(model: nn.Module) -> None:
    """Make Python floats of the drop rates that mmpretrain takes from NumPy.

    ``torch.compile`` would stop and start anew at each of them, twice in
    every block, to find out whether it is zero.
    """
    for module in model.modules():
        if hasattr(module, 'drop_prob'):
            module.drop_prob = float(module.drop_prob)


def configs_root() -> Optional[Path]:
    """The folder whose ``configs`` are those of this package.

    They lie beside the package in a checkout and in ``_dmae_mm/.mim`` in an
    installed wheel.

    Returns:
        Path | None: None if they are in neither place.
    """
    parent = Path(__file__).parents[1]
    for root in (parent / '_dmae_mm' / '.mim', parent):
        # Not any model-index.yml: that of another project may lie there.
        if (root / 'configs' / 'dmae' / 'metafile.yml').is_file():
            return root
    return None


def register_configs() -> None:
    """Let ``list_models`` and ``get_model`` of mmpretrain see the configs.

    Where there are none, there is nothing to register. A second call, which
    mmpretrain would refuse, changes nothing.
    """
    root = configs_root()
    if root and not ModelHub.has('vit-s_dmae_in1k'):
        ModelHub.register_model_index(
            root / 'model-index.yml', config_prefix=root)
