"""Run a dumped training step again, and find where it goes wrong."""
import contextlib
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import set_random_seed

from dmae_mm.weights.safe_load import load_without_executing

from .step_dump import set_random_state, unplain


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
        self.dump, self.device, self.say = dump, device, say
        self.cfg = cfg
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
        teacher = getattr(model, 'teacher', None)
        if teacher is not None:
            teacher.init_weights()
            if teacher.fingerprint() != dump['teacher']:
                self.say('WARNING: this teacher is not the one of the run: '
                         f'{teacher.checkpoint!r} has changed.')
        weights = dump['weights']
        if weights is None:
            if dump['checkpoint'] is None:
                raise ValueError('The dump holds no weights, and there was no '
                                 'checkpoint yet: nothing can be repeated.')
            self.say('The dump holds no weights. Those of '
                     f'{dump["checkpoint"]} are taken, of an earlier step.')
            weights = load_without_executing(
                dump['checkpoint'], dump['checkpoint'])['state_dict']
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
        spoiled = [
            name for name, weight in self.model.state_dict().items()
            if weight.is_floating_point() and not _is_finite(weight)
        ]
        if spoiled:
            self.say(f'{len(spoiled)} weights are not finite before the step, '
                     f'the first is {spoiled[0]}. An earlier step with a '
                     'finite loss had gradients that were not, or too large a '
                     'learning rate. Repeat that step, or start again from a '
                     'checkpoint, with clip_grad or a lower learning rate.')
        set_random_state(self.dump['random_state'])
        with self._watched(), _autocast(self.cfg, self.device):
            # Transforms of the device may be random as well.
            data = self.model.data_preprocessor(
                unplain(self.dump['batch']), True)
            images = data['inputs']
            for tensor in _tensors(images):
                if not _is_finite(tensor):
                    self.say('The images are not finite after the data '
                             'preprocessor.')
            losses = self.model(**data, mode='loss')
            total, terms = self.model.parse_losses(losses)
            self.say(f'{"":24} repeated      in the run')
            same = True
            for name, value in terms.items():
                now, then = float(value.detach()), self.dump['terms'].get(name)
                equal = now == then or not (_finite_number(now)
                                            or _finite_number(then))
                same &= equal
                self.say(f'{name:24} {now:<13.7g} '
                         f'{"-" if then is None else format(then, ".7g")}'
                         f'{"" if equal else "   differs"}')
        if self.first_bad:
            self.say(f'The first that is not finite: {self.first_bad}'
                     f'{self._largest_weight()}')
        elif not bool(torch.isfinite(total)):
            self.say('Every module gives finite outputs: the loss itself, or '
                     'what is computed between modules, is not finite.')
        else:
            self._backward(total)
        self.say('The losses are the same as in the run.' if same else
                 'The losses differ from those of the run.')
        return same

    def _largest_weight(self) -> str:
        """What shows a training that has exploded; '' without weights."""
        sizes = {
            name: _largest(weight)
            for name, weight in self.model.named_parameters()
            if weight.numel() and _is_finite(weight)
        }
        if not sizes:
            return ''
        name = max(sizes, key=sizes.get)
        return f'; the largest finite weight is {sizes[name]:.2g}, in {name}'

    def _backward(self, total: torch.Tensor) -> None:
        self.say('The losses are finite. Their gradients:')
        try:
            with torch.autograd.detect_anomaly():
                total.backward()
        except RuntimeError as error:
            self.say(f'    {str(error).splitlines()[0]}')
            bad = None  # those of the parameters are incomplete
        else:
            bad = [
                name for name, parameter in self.model.named_parameters()
                if parameter.grad is not None
                and not _is_finite(parameter.grad)
            ]
        if self.first_bad_gradient:
            self.say('    The first that is not finite: at the output of '
                     f'{self.first_bad_gradient}')
        if bad is not None:
            self.say(f'    {len(bad)} parameters have gradients that are not '
                     'finite' + (f', the last is {bad[-1]}' if bad else ''))

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Look at what goes into and comes out of each module.

        A module that contains others is called back after them, so the first
        one is the innermost.
        """
        modules = [(name, module)
                   for name, module in self.model.named_modules()
                   if not name.startswith('data_preprocessor')]
        teacher = getattr(self.model, 'teacher', None)
        if teacher is not None:  # not among the modules
            modules += teacher.named_modules(prefix='teacher')
        handles = [
            module.register_forward_hook(self._watch(name or 'the model'))
            for name, module in modules
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _watch(self, name: str) -> Callable:

        def look(module: nn.Module, args: tuple, output: Any) -> None:
            for tensor in _tensors(output):
                if self.first_bad is None and not _is_finite(tensor):
                    self.first_bad = (
                        f'the output of {name} ({type(module).__name__}), '
                        f'whose input is {_extent(args)}')
                if tensor.requires_grad:
                    tensor.register_hook(look_back)

        def look_back(gradient: torch.Tensor) -> None:
            if self.first_bad_gradient is None and not _is_finite(gradient):
                self.first_bad_gradient = name

        return look


def _tensors(value: Any) -> List[torch.Tensor]:
    """All tensors of floating-point numbers in a module's output."""
    if isinstance(value, torch.Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def _extent(args: tuple) -> str:
    """How large a module's input is."""
    parts = [tensor for tensor in _tensors(args) if tensor.numel()]
    if not all(_is_finite(tensor) for tensor in parts):
        return 'not finite'
    if not parts:
        return 'finite'
    return f'finite, up to {max(map(_largest, parts)):.2g}'


def _largest(tensor: torch.Tensor) -> float:
    return float(tensor.detach().abs().max())


def _is_finite(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _finite_number(value: Optional[float]) -> bool:
    return value is not None and value - value == 0


def _autocast(cfg: Config, device: torch.device) -> Any:
    """The precision of the run's optimizer wrapper."""
    optim_wrapper = cfg.optim_wrapper
    if not str(optim_wrapper.get('type')).endswith('AmpOptimWrapper'):
        return contextlib.nullcontext()
    dtype = optim_wrapper.get('dtype') or 'float16'
    return torch.autocast(
        device.type,
        dtype=getattr(torch, dtype) if isinstance(dtype, str) else dtype)


def pick_device() -> Tuple[torch.device, str]:
    """The first accelerator, or else the CPU, and its name."""
    if torch.cuda.is_available():
        return torch.device('cuda', 0), torch.cuda.get_device_name(0)
    return torch.device('cpu'), 'CPU'
