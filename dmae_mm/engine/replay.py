"""Run a dumped training step again, and find where it goes wrong."""
import contextlib
import functools
import math
from typing import Any, Callable, Dict, List, Optional

import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import set_random_seed

from dmae_mm.weights.safe_load import load_without_executing

from .step_dump import set_random_state


class Replay:
    """One forward and backward pass of a dumped step.

    Args:
        cfg (Config): The run's config.
        dump (dict): What :func:`read_dump` returned.
        device (torch.device): Where to run. On another kind than the run's,
            other masks are drawn.
        say (Callable): Takes each line of the report. Defaults to ``print``.

    Raises:
        ValueError: If the dump is incomplete or belongs to another model.
    """

    def __init__(self,
                 cfg: Config,
                 dump: Dict[str, Any],
                 device: torch.device,
                 say: Callable[[str], None] = print) -> None:
        if dump['batch'] is None:
            raise ValueError('The dump holds no batch, because its data '
                             'samples have no plain form: the step cannot be '
                             f'repeated. Its images: {dump["images"]}')
        self.cfg, self.dump, self.device, self.say = cfg, dump, device, say
        self.model = self._build().to(device).train()
        self.first_bad: Optional[str] = None
        self.first_bad_gradient: Optional[str] = None

    def _build(self) -> nn.Module:
        cfg, dump = self.cfg, self.dump
        if cfg.get('data_preprocessor') is not None:
            cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
        set_random_seed(dump['seed'])  # for a teacher of random weights
        with DefaultScope.overwrite_default_scope(
                cfg.get('default_scope', 'mmpretrain')):
            model = MODELS.build(cfg.model)
        for name, teacher in getattr(model, 'teachers', {}).items():
            teacher.init_weights()
            if teacher.fingerprint() != dump['teachers'].get(name):
                self.say(f'WARNING: this teacher{f" {name!r}" * bool(name)} '
                         'is not the one of the run: '
                         f'{teacher.checkpoint!r} has changed.')
        weights, path = dump['weights'], dump['checkpoint']
        if weights is None:
            if path is None:
                raise ValueError('The dump holds no weights, and there was no '
                                 'checkpoint yet: nothing can be repeated.')
            self.say(f'The dump holds no weights. Those of {path} are taken, '
                     'of an earlier step.')
            weights = load_without_executing(path, path)['state_dict']
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError('The weights of the dump are not those of this '
                             f"config's model: {error}") from None
        return model

    def run(self) -> bool:
        """Repeat the step and report.

        Returns:
            bool: Whether the losses are the same as in the run: equal, or not
            finite in both.
        """
        spoiled = [name for name, weight in self.model.state_dict().items()
                   if not _is_finite(weight)]
        if spoiled:
            self.say(f'{len(spoiled)} weights are not finite before the step, '
                     f'the first is {spoiled[0]}. An earlier step with a '
                     'finite loss had gradients that were not, or too large a '
                     'learning rate. Repeat that step, or start again from a '
                     'checkpoint, with clip_grad or a lower learning rate.')
        set_random_state(self.dump['random_state'])
        with _autocast(self.cfg.optim_wrapper, self.device):
            # Transforms of the device may be random as well.
            data = self.model.data_preprocessor(self.dump['batch'], True)
            if not all(map(_is_finite, _tensors(data['inputs']))):
                self.say('The images are not finite after the data '
                         'preprocessor.')
            self._watch()
            losses = self.model(**data, mode='loss')
            total, terms = self.model.parse_losses(losses)
        same = self._compare(terms)
        if self.first_bad:
            self.say(f'The first that is not finite: {self.first_bad}'
                     f'{self._largest_weight()}')
        elif not _is_finite(total):
            self.say('Every module gives finite outputs: the loss itself, or '
                     'what is computed between modules, is not finite.')
        else:
            self._backward(total)
        self.say('The losses are the same as in the run.' if same else
                 'The losses differ from those of the run.')
        return same

    def _compare(self, terms: Dict[str, torch.Tensor]) -> bool:
        """Print the losses beside those of the run: are they the same?"""
        self.say(f'{"":24} repeated      in the run')
        same = True
        for name, value in terms.items():
            now, then = value.item(), self.dump['terms'].get(name)
            equal = then is not None and (
                now == then or not (math.isfinite(now) or math.isfinite(then)))
            same &= equal
            then = '-' if then is None else f'{then:.7g}'
            self.say(f'{name:24} {now:<13.7g} {then}' +
                     '   differs' * (not equal))
        return same

    def _largest_weight(self) -> str:
        """What shows a training that has exploded; '' without weights."""
        sizes = [(_largest(weight), name)
                 for name, weight in self.model.named_parameters()
                 if weight.numel() and _is_finite(weight)]
        if not sizes:
            return ''
        size, name = max(sizes)
        return f'; the largest finite weight is {size:.2g}, in {name}'

    def _backward(self, total: torch.Tensor) -> None:
        self.say('The losses are finite. Their gradients:')
        total.backward()
        if self.first_bad_gradient:
            self.say('    The first that is not finite: at the output of '
                     f'{self.first_bad_gradient}')
        bad = [name for name, weight in self.model.named_parameters()
               if weight.grad is not None and not _is_finite(weight.grad)]
        self.say(f'    {len(bad)} parameters have gradients that are not '
                 'finite' + (f', the last is {bad[-1]}' if bad else ''))

    def _watch(self) -> None:
        """Have :meth:`_look` called behind each module.

        For one that contains others, this is after them: what it finds first
        is the innermost.
        """
        modules = dict(self.model.named_modules())
        # Teachers are not among the modules.
        for name, teacher in getattr(self.model, 'teachers', {}).items():
            modules.update(
                teacher.named_modules(
                    prefix=f'teachers.{name}' if name else 'teacher'))
        for name, module in modules.items():
            module.register_forward_hook(
                functools.partial(self._look, name or 'the model'))

    def _look(self, name: str, module: nn.Module, args: tuple,
              output: Any) -> None:
        name = f'{name} ({type(module).__name__})'

        def look_back(gradient: torch.Tensor) -> None:
            if self.first_bad_gradient is None and not _is_finite(gradient):
                self.first_bad_gradient = name

        for tensor in _tensors(output):
            if self.first_bad is None and not _is_finite(tensor):
                self.first_bad = (f'the output of {name}, whose input is '
                                  f'{_extent(args)}')
            if tensor.requires_grad:
                tensor.register_hook(look_back)


def _tensors(value: Any) -> List[torch.Tensor]:
    """All tensors in what goes into or comes out of a module."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def _extent(args: tuple) -> str:
    """How large a module's input is."""
    parts = [tensor for tensor in _tensors(args)
             if tensor.is_floating_point() and tensor.numel()]
    if not all(map(_is_finite, parts)):
        return 'not finite'
    return 'finite' + (
        f', up to {max(map(_largest, parts)):.2g}' if parts else '')


def _largest(tensor: torch.Tensor) -> float:
    return float(tensor.detach().abs().max())


def _is_finite(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())  # integers are


def _autocast(optim_wrapper: dict, device: torch.device) -> Any:
    """The precision of the run's optimizer wrapper."""
    if not str(optim_wrapper.get('type')).endswith('AmpOptimWrapper'):
        return contextlib.nullcontext()
    dtype = optim_wrapper.get('dtype') or 'float16'
    return torch.autocast(
        device.type,
        dtype=getattr(torch, dtype) if isinstance(dtype, str) else dtype)
