"""Files and folders that a config names and that are not there."""
import os.path as osp
from typing import Any, List, Tuple

from mmengine.config import Config

from dmae_mm.datasets.folders import (EXTENSIONS, count_endings,
                                            has_images, no_images)
from dmae_mm.weights.download import what_folder
from dmae_mm.weights.model_folder import check_folder

from .sections import entries, hooks, last_name

# The data loaders that a training uses.
TRAINING = ('train_dataloader', 'val_dataloader')
_SUFFIXES = ('.pth', '.pt', '.bin', '.safetensors')
# Options of hooks of this package that name files or folders.
_HOOK_FILES = ('train_root', 'test_root', 'train_list')
# Data sets of mmpretrain that are downloaded if they are not there.
_DOWNLOADED = ('CIFAR10', 'CIFAR100', 'MNIST', 'FashionMNIST')


def missing_files(cfg: Config, dataloaders: Tuple[str, ...] = TRAINING,
                  checkpoints: bool = True) -> List[str]:
    """Find out now what would stop the run minutes or hours later.

    Only names are looked at: nothing is built, and addresses are not called.

    Args:
        cfg (Config): Whose data sets, checkpoints and hooks are looked at.
        dataloaders (tuple[str]): Those that will be used. Defaults to those
            of a training.
        checkpoints (bool): Whether ``model`` and ``load_from`` will be read.

    Returns:
        list[str]: A sentence for each that is missing, with its option.
    """
    problems = []
    for name in dataloaders:
        section = cfg.get(name)
        if isinstance(section, dict):
            for option, value in entries({'dataset': section.get('dataset')},
                                         name):
                problems += _missing_data(option, value)
    if checkpoints:
        for option, path in entries(
                dict(model=cfg.get('model'), load_from=cfg.get('load_from'))):
            if not _is_checkpoint(option, path) or osp.isfile(path):
                continue
            if osp.isdir(path) and _may_be_folder(option):
                try:
                    check_folder(path)
                except (OSError, ValueError) as error:
                    problems.append(f'{option}: {error}')
            elif osp.isdir(path):
                problems.append(f'{option}: {path!r} {what_folder(path)}')
            else:
                problems.append(f'there is no checkpoint {path!r}: set '
                                f'--cfg-options {option}=/path/to/file')
        for option, path in entries(hooks(cfg)):
            if last_name(option) in _HOOK_FILES and _is_local(
                    path) and not osp.exists(path):
                problems.append(f'{option}: there is no {path!r}')
    return problems


def _is_local(path: Any) -> bool:
    # ShardDataset reads the output of a command, 'pipe:COMMAND', too.
    return (isinstance(path, str) and path != '' and '://' not in path
            and not path.startswith('pipe:'))


def _is_checkpoint(option: str, value: Any) -> bool:
    key = last_name(option)
    return _is_local(value) and (
        key in ('checkpoint', 'load_from')
        or key == 'pretrained' and value.endswith(_SUFFIXES))


def _may_be_folder(option: str) -> bool:
    """Whether this package reads it; MMEngine reads files alone."""
    return (last_name(option) == 'checkpoint'
            and 'init_cfg' not in option.split('.'))


def _missing_data(option: str, dataset: Any) -> List[str]:
    """Of a data set; anything else in the section of one names no data."""
    if not isinstance(dataset, dict) or dataset.get('type') in _DOWNLOADED:
        return []
    root = dataset.get('data_root')
    if _is_local(root) and not osp.isdir(root):
        use = dict(val='validate', test='test').get(option.split('_')[0],
                                                    'train')
        return [f'there is no folder {root!r} to {use} on: set '
                f'--cfg-options {option}.data_root=/path/to/images']
    if root and not _is_local(root):
        return []
    problems = []
    prefix = dataset.get('data_prefix')
    if (str(dataset.get('type')).endswith('CustomDataset')
            and not dataset.get('ann_file')
            and isinstance(prefix, (str, type(None)))):
        folder = osp.join(root or '', prefix or '')
        extensions = tuple(dataset.get('extensions') or EXTENSIONS)
        if osp.isdir(folder) and not has_images(folder, extensions) and (
                count_endings(folder)):  # else, the data set says enough
            return [f'{option}: {no_images(folder, extensions)}']
    parts = ({f'data_prefix.{key}': value for key, value in prefix.items()}
             if isinstance(prefix, dict) else dict(data_prefix=prefix))
    for key, name in dict(parts, ann_file=dataset.get('ann_file')).items():
        if _is_local(name):
            path = osp.join(root or '', name)
            if not osp.exists(path):
                problems.append(f'there is no {path!r}: set --cfg-options '
                                f'{option}.{key} or {option}.data_root')
    return problems
