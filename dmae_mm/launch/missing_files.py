"""Files and folders that a config names and that are not there."""
import os.path as osp
from typing import Any, Iterator, List, Tuple

from mmengine.config import Config

# The data loaders that a training uses.
TRAINING = ('train_dataloader', 'val_dataloader')
_CHECKPOINTS = ('checkpoint', 'pretrained')
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
        if isinstance(cfg.get(name), dict):
            for option, dataset in _data_sets(cfg[name].get('dataset'),
                                              f'{name}.dataset'):
                problems += _missing_data(option, dataset)
    if checkpoints:
        for option, path in _checkpoints(cfg):
            if not osp.isfile(path):
                problems.append(f'there is no checkpoint {path!r}: set '
                                f'--cfg-options {option}=/path/to/file')
        hooks = [(f'default_hooks.{name}', hook)
                 for name, hook in (cfg.get('default_hooks') or {}).items()]
        custom = cfg.get('custom_hooks')
        if isinstance(custom, (list, tuple)):
            hooks += [(f'custom_hooks.{index}', hook)
                      for index, hook in enumerate(custom)]
        for option, hook in hooks:
            for key in _HOOK_FILES:
                path = hook.get(key) if isinstance(hook, dict) else None
                if _is_local(path) and not osp.exists(path):
                    problems.append(f'{option}.{key}: there is no {path!r}')
    return problems


def _is_local(path: Any) -> bool:
    # ShardDataset reads the output of a command, 'pipe:COMMAND', too.
    return (isinstance(path, str) and path != '' and '://' not in path
            and not path.startswith('pipe:'))


def _data_sets(dataset: Any, option: str) -> Iterator[Tuple[str, dict]]:
    """The data sets that read files, inside those that repeat or join them."""
    if not isinstance(dataset, dict):
        return
    if isinstance(dataset.get('dataset'), dict):
        yield from _data_sets(dataset['dataset'], f'{option}.dataset')
    elif isinstance(dataset.get('datasets'), (list, tuple)):
        for index, part in enumerate(dataset['datasets']):
            yield from _data_sets(part, f'{option}.datasets.{index}')
    else:
        yield option, dataset


def _missing_data(option: str, dataset: dict) -> List[str]:
    if dataset.get('type') in _DOWNLOADED:
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
    parts = ({f'data_prefix.{key}': value for key, value in prefix.items()}
             if isinstance(prefix, dict) else dict(data_prefix=prefix))
    for key, name in dict(parts, ann_file=dataset.get('ann_file')).items():
        if _is_local(name):
            path = osp.join(root or '', name)
            if not osp.exists(path):
                problems.append(f'there is no {path!r}: set --cfg-options '
                                f'{option}.{key} or {option}.data_root')
    return problems


def _checkpoints(cfg: Config) -> Iterator[Tuple[str, str]]:
    yield from _named(cfg.get('model'), 'model')
    if _is_local(cfg.get('load_from')):
        yield 'load_from', cfg.load_from


def _named(value: Any, option: str) -> Iterator[Tuple[str, str]]:
    items = value.items() if isinstance(value, dict) else (
        enumerate(value) if isinstance(value, (list, tuple)) else ())
    for key, item in items:
        if key in _CHECKPOINTS and _is_local(item) and (
                key == 'checkpoint' or item.endswith(_SUFFIXES)):
            yield f'{option}.{key}', item
        yield from _named(item, f'{option}.{key}')
