"""What is said and written down of a training step with a bad loss.

A dump is a file of ``torch.save`` that ``torch.load(weights_only=True)``
reads: tensors, text, numbers, and lists and dicts of them.
"""
import math
import os.path as osp
import random
import shlex
from dataclasses import dataclass, field
from typing import Any, Dict, List

import numpy as np
import torch
import torch.nn as nn
from mmengine.dist import get_rank, get_world_size
from mmengine.runner import find_latest_checkpoint
from mmengine.structures import BaseDataElement
from mmengine.utils import get_object_from_string
from torch.distributed.tensor import DTensor

from dmae_mm.files import write_whole
from dmae_mm.messages import first_few, one_line
from dmae_mm.weights.safe_load import load_without_executing

MAX_NAMES = 8  # of images in a message
FORMAT = 'dmae_mm step 2'
# Keys of the dicts that stand for what is no plain value.
_ARRAY, _ELEMENT = '__ndarray__', '__data_element__'
_PACKAGES = ('mmengine', 'mmpretrain', 'mmseg', 'mmdet', 'dmae_mm')


@dataclass
class Step:
    """One iteration of a training."""
    iter: int  # counted from 1, as in the log
    epoch: int
    where: str  # in the epoch
    lr: Dict[str, float]
    batch: Any
    random_state: Dict[str, Any]  # before it
    terms: Dict[str, float] = field(default_factory=dict)  # once known
    # By their names in the model, what it reads and then changes: before it.
    statistics: Dict[str, torch.Tensor] = field(default_factory=dict)

    def bad_terms(self) -> Dict[str, float]:
        """The losses that are not finite; the sum only if no other is."""
        bad = {
            name: value
            for name, value in self.terms.items()
            if 'loss' in name and not math.isfinite(value)
        }
        return {name: bad[name] for name in bad if name != 'loss'} or bad

    def images(self) -> List[str]:
        """Names of the image files, as ``PackInputs`` stores them."""
        samples = self.batch.get('data_samples') if isinstance(
            self.batch, dict) else None
        names = (getattr(sample, 'img_path', None) for sample in samples or ())
        return [str(name) for name in names if name is not None]

    def summary(self) -> str:
        """Three lines: what is not finite and when, other values, images."""
        bad, images, rank = self.bad_terms(), self.images(), ''
        others = {k: v for k, v in self.terms.items() if k not in bad}
        if get_world_size() > 1:
            rank = f', rank {get_rank()} of {get_world_size()}'
        return (
            f'{_values(bad)} in iteration {self.iter} (epoch {self.epoch}, '
            f'{self.where}{rank}).\nThe other values: '
            f'{_values(others) or "none"}. Learning rate: {_values(self.lr)}.'
            '\n' + (f'Images: {first_few(images, MAX_NAMES)}.' if images else
                    'The batch holds no file names: PackInputs puts img_path '
                    'into data_samples unless its meta_keys say otherwise.'))


def _values(values: Dict[str, float]) -> str:
    return ', '.join(f'{name}={value:.6g}' for name, value in values.items())


def dump_step(runner, model: nn.Module, step: Step, path: str) -> str:
    """Write down a step so that it can be repeated.

    Args:
        runner: The run.
        model (nn.Module): Not wrapped, with the weights before the step;
            its running statistics may be those after it.
        step (Step): The step.
        path (str): The file.

    Returns:
        str: What a person is told. That the file cannot be written is part of
        it, and must not hide the error of the step itself.
    """
    weights, note = {**model.state_dict(), **step.statistics}, ''
    if any(isinstance(weight, DTensor) for weight in weights.values()):
        weights = None  # no process has them whole
        note += ' It is without weights, because they are sharded.'
    try:
        batch = plain(step.batch)
    except TypeError as error:
        batch = None
        note += f' It is without the batch, because {error}.'
    if len(step.images()) > MAX_NAMES:
        note += ' It names all images.'
    try:
        write_dump(
            path,
            dict(
                {
                    key: value
                    for key, value in vars(step).items()
                    if key != 'statistics'  # they are among the weights
                },
                rank=get_rank(),
                world_size=get_world_size(),
                seed=runner.seed,
                images=step.images(),
                batch=batch,
                teachers={
                    name: teacher.fingerprint()
                    for name, teacher in getattr(model, 'teachers',
                                                 {}).items()
                },
                checkpoint=find_latest_checkpoint(runner.work_dir),
                weights=weights))
    except (OSError, RuntimeError) as error:
        why = getattr(error, 'strerror', None) or one_line(error)
        return f'The step could not be dumped to {path}: {why}'
    config = osp.join(
        runner.work_dir,
        osp.basename(runner.cfg.filename or f'{runner.timestamp}.py'))
    return (f'Dump: {path} ({osp.getsize(path) / 1e6:.1f} MB).{note} To '
            'repeat the step:\n'
            f'    python tools/replay_step.py {shlex.quote(config)} \\\n'
            f'        {shlex.quote(path)}')


def write_dump(path: str, content: Dict[str, Any]) -> None:
    """Write a dump, whole or not at all.

    Raises:
        OSError: If it cannot be written, for example to a full disk.
        TypeError: If something in it has no plain form.
    """
    content = plain(dict(format=FORMAT, **content))
    with write_whole(path) as unfinished:
        try:
            with open(unfinished, 'wb') as file:
                torch.save(content, file)
        except RuntimeError as error:  # torch's, which hides the disk's
            raise (error.__context__ or error) from None


def read_dump(path: str) -> Dict[str, Any]:
    """Read what :func:`write_dump` wrote, without executing anything in it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else.
    """
    if not osp.isfile(path):
        raise FileNotFoundError(f'There is no dump {path!r}.')
    try:
        content = load_without_executing(path, path)
    except ValueError as error:
        raise ValueError(f'{path!r} is damaged or no dump of a step. {error}'
                         ) from None
    if not isinstance(content, dict) or content.get('format') != FORMAT:
        raise ValueError(f'{path!r} is no dump of a step: it has no '
                         f'format={FORMAT!r}. Checkpoints are not dumps.')
    return unplain(content)


def random_state() -> Dict[str, Any]:
    """The state of all random generators of this process.

    It takes some microseconds and waits for no device: CUDA's generator is
    kept on the host.
    """
    state = dict(
        python=random.getstate(),
        numpy=np.random.get_state(),
        torch=torch.get_rng_state())
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Dict[str, Any]) -> None:
    """Put all random generators into a state of :func:`random_state`."""
    random.setstate(state['python'])
    np.random.set_state(state['numpy'])
    torch.set_rng_state(state['torch'])
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'])


def plain(value: Any) -> Any:
    """A batch of the data loader, say, as plain values.

    Raises:
        TypeError: If something in it has no plain form.
    """
    if value is None or isinstance(value, (bool, torch.Tensor)):
        return value
    for kind in (int, float, str):  # also their subclasses, numpy's included
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, np.ndarray):
        return {_ARRAY: torch.from_numpy(value.copy())}
    if isinstance(value, BaseDataElement):
        return {
            _ELEMENT: f'{type(value).__module__}:{type(value).__qualname__}',
            'metainfo': plain(dict(value.metainfo_items())),
            'data': plain(dict(value.items()))
        }
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        kind = list if isinstance(value, list) else tuple
        return kind(map(plain, value))
    raise TypeError(f'{type(value).__module__}.{type(value).__qualname__} '
                    'has no plain form')


def unplain(value: Any) -> Any:
    """The inverse of :func:`plain`.

    Raises:
        ValueError: If a class is named that no data sample has.
    """
    if isinstance(value, dict):
        if _ARRAY in value:
            return value[_ARRAY].numpy()
        if _ELEMENT in value:
            return _element(value)
        return {key: unplain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(unplain, value))
    return value


def _element(value: Dict[str, Any]) -> BaseDataElement:
    name = value[_ELEMENT].replace(':', '.')
    cls = (get_object_from_string(name)
           if name.split('.')[0] in _PACKAGES else None)
    if not (isinstance(cls, type) and issubclass(cls, BaseDataElement)):
        raise ValueError(f'{name} is no class of a data sample, or '
                         'its package is not installed.')
    return cls(
        metainfo=unplain(value['metainfo']), **unplain(value['data']))
