"""A config that differs from the checkpoint it resumes: applied or refused.

MMEngine loads the state of optimizer and schedules over what it has built
from the config, learning rates and betas included.
"""
import copy
import warnings
from typing import Any, Dict, Iterator, List, Tuple

from mmengine.hooks import EMAHook
from mmengine.optim import OptimWrapperDict
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from mmengine.runner import IterBasedTrainLoop

from dmae_mm.config_text import differences, flat_config
from dmae_mm.host import unwrapped_model
from dmae_mm.messages import first_few

from .work_dir import NOT_COMPARED

# Option -> its value in the checkpoint, and in the config.
Changes = Dict[str, Tuple[Any, Any]]

ADVICE = ('Give the values of the checkpoint to go on with its run. To begin '
          'a new run from its weights, set load_from=CHECKPOINT, in another '
          'work dir and without --resume.')
# How an optimizer computes, not what.
_IMPLEMENTATION = ('fused', 'foreach')
# Of a schedule's state, what moves.
_MOVING = {'optimizer', 'verbose', 'last_step', 'base_values', '_global_step',
           '_last_value', 'best', 'num_bad_epochs', 'cooldown_counter'}
_LISTED = 20  # options of a message


class ResumedOptions:
    """What was built from a config, kept while a checkpoint is loaded.

    Args:
        runner (Runner): Has built all, and resumes.
        checkpoint (dict): Read, not yet loaded.

    Attributes:
        changes (Changes): What differs and can be applied.

    Raises:
        ValueError: If something differs that cannot be applied. The message
            names options and both values.
    """

    def __init__(self, runner, checkpoint: dict) -> None:
        meta = checkpoint['meta']
        self.changes: Changes = {}
        self.epoch, self.iter = meta['epoch'], meta['iter']
        self.batches_done = (meta.get('position') or {}).get('batches_done', 0)
        options = self._compare_configs(runner, meta.get('cfg'))
        problems = [
            *_wrong_length(runner, options, self.epoch, self.iter),
            *_wrong_seed(runner, meta), *_wrong_average(runner, checkpoint),
            *_wrong_shapes(runner, checkpoint['state_dict']),
            *self._wrong_groups(runner, checkpoint)
        ]
        if problems:
            self._refuse(problems)
        for name, state in _by_name(checkpoint['optimizer']).items():
            _compute_as_built(state, _by_name(runner.optim_wrapper)[name])
        # MMEngine's strategies expect it.
        self.saved = checkpoint.setdefault(
            'param_schedulers',
            {name: [] for name in runner.param_schedulers} if isinstance(
                runner.param_schedulers, dict) else [])
        self.built = {
            name: [_options(group) for group in wrapper.param_groups]
            for name, wrapper in _by_name(runner.optim_wrapper).items()
        }
        self.schedules = {
            name: [_state(scheduler) for scheduler in schedulers]
            for name, schedulers in _by_name(runner.param_schedulers).items()
        }
        self.scalers = {
            name: wrapper.loss_scaler.state_dict()
            for name, wrapper in _by_name(runner.optim_wrapper).items()
            if hasattr(wrapper, 'loss_scaler')
        }

    def apply(self, runner) -> None:
        """Give the config's values to what the checkpoint was loaded into.

        Where a learning rate or its schedule differs, all schedules begin
        anew and are stepped to where the run is, so that what follows is
        what a run would do that had them from its first step.

        Args:
            runner (Runner): Has loaded the checkpoint.

        Raises:
            ValueError: As above.
        """
        for name, wrapper in _by_name(runner.optim_wrapper).items():
            where = f'optim_wrapper.{name}'.rstrip('.')
            self._apply_optimizer(runner, name, wrapper, where)
            self._apply_scaler(name, wrapper, where)
        if self.changes:
            runner.logger.warning(
                'The config differs from that of the checkpoint. From here '
                'on, its values are applied (before -> now):\n' + first_few(
                    _lines(self.changes), _LISTED, '\n'))

    def _compare_configs(self, runner, text: Any) -> Dict[str, str]:
        """Note what differs; all options of the checkpoint's config."""
        if not text or not len(runner.cfg):
            return {}
        try:
            options = flat_config(text)
            now = flat_config(runner.cfg.pretty_text)
        except SyntaxError as error:
            runner.logger.warning(
                'The config in the checkpoint cannot be compared with this '
                f'one: {error}')
            return {}
        self.changes = {
            option: tuple(values)
            for option, values in differences([options, now]).items()
            if option.partition('.')[0] not in (*NOT_COMPARED,
                                                'experiment_name')
        }
        return options

    def _wrong_groups(self, runner, checkpoint: dict) -> Iterator[str]:
        """Parameters that the optimizer's state does not fit."""
        if 'optimizer' not in checkpoint:
            yield ('the checkpoint has no state of the optimizer '
                   '(save_optimizer=False), without which a run cannot go on')
            return
        states = _by_name(checkpoint['optimizer'])
        constructed = [
            f'{option}: {old} in the checkpoint, {new} in the config'
            for option, (old, new) in self.changes.items()
            if option.startswith(('optim_wrapper.paramwise_cfg',
                                  'optim_wrapper.constructor'))
        ]
        for option, (old, new) in self.changes.items():
            if option.startswith('optim_wrapper.') and option.endswith(
                    'optimizer.type'):
                yield (f'{option}: {old} in the checkpoint, {new} in the '
                       'config')
        for name, wrapper in _by_name(runner.optim_wrapper).items():
            if name not in states:
                yield f'the checkpoint has no optimizer {name!r}'
                continue
            saved, own = ([len(group['params']) for group in groups]
                          for groups in (states[name]['param_groups'],
                                         wrapper.optimizer.param_groups))
            # MergedGroupsConstructor's, which knows the model's order.
            regroups = wrapper.optimizer._optimizer_load_state_dict_pre_hooks
            if set(saved) == {1} and sum(saved) == sum(own) and (
                    regroups or saved == own):
                continue
            if saved != own:
                yield (f'the optimizer trains {sum(saved)} tensors in '
                       f'{len(saved)} groups in the checkpoint, {sum(own)} in '
                       f'{len(own)} here')
            # Groups are told apart by their order only.
            if saved != own or len(saved) > 1:
                yield from constructed

    def _apply_optimizer(self, runner, name: str, wrapper: Any,
                         where: str) -> None:
        schedulers = _by_name(runner.param_schedulers).get(name, [])
        built, schedules = self.built[name], self.schedules.get(name, [])
        saved = _by_name(self.saved).get(name, [])
        groups = wrapper.param_groups
        scheduled = {state['param_name'] for state in (*schedules, *saved)}
        keys = {f'{prefix}{key}' for key in scheduled
                for prefix in ('', 'initial_', 'max_', 'min_')}
        keys |= {'betas'} if 'momentum' in scheduled else set()
        found = _differences_of_groups(
            groups, built, keys, len(wrapper.optimizer.param_groups))
        problems = [
            f'{where}.optimizer.{key}: {old} in the checkpoint, {new} in the '
            'config' for key, (old, new) in found.items()
            if not (_is_number(old) and _is_number(new))
        ]
        bases = {}
        for key in sorted(scheduled):
            pairs = [(_base(group, key), _base(own, key))
                     for group, own in zip(groups, built)]
            bases.update(_different(key, pairs))
        curves = _differences_of_schedules(saved, schedules, schedulers)
        if not curves and {'param_scheduler', 'param_scheduler.type'
                           } & self.changes.keys():
            curves['param_scheduler'] = ('', '')  # said already
        moved = bases or curves
        if moved and any('monitor' in state for state in (*schedules, *saved)):
            problems += [f'{where}.optimizer.{key}: {old} in the checkpoint, '
                         f'{new} in the config'
                         for key, (old, new) in bases.items()]
            problems += [f'{key}: {old} in the checkpoint, {new} in the '
                         'config' for key, (old, new) in curves.items()]
            problems.append('a schedule that follows a metric '
                            '(ReduceOnPlateau) cannot be stepped to where '
                            'the run is')
        if problems:
            self._refuse(problems)
        if moved:
            for group, own in zip(groups, built):
                for key in group.keys() - own.keys() - {'params'}:
                    del group[key]
                group.update(own)
            for scheduler, state in zip(schedulers, schedules):
                for key in vars(scheduler).keys() - {*state, 'optimizer'}:
                    delattr(scheduler, key)  # another schedule's
                vars(scheduler).update(copy.deepcopy(state))
            self._replay(runner, schedulers)
        else:
            for group, own in zip(groups, built):
                group.update({key: own[key] for key in found if key in own})
        for key, (old, new) in {**found, **bases}.items():
            self.changes[f'{where}.optimizer.{key}'] = (old, new)
        self.changes.update({key: values for key, values in curves.items()
                             if key != 'param_scheduler'})

    def _replay(self, runner, schedulers: List[_ParamScheduler]) -> None:
        """Step schedules as their hook does, to where the run is."""
        epochs, iters = self.epoch, self.iter
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            epochs = 0
        whole = iters - self.batches_done  # iterations of whole epochs
        ends = {round(whole * (epoch + 1) / epochs) for epoch in range(epochs)}
        by_epoch = [one for one in schedulers if one.by_epoch]
        by_iter = [one for one in schedulers if not one.by_epoch]
        with warnings.catch_warnings():
            # That no step of the optimizer comes in between.
            warnings.simplefilter('ignore')
            for step in range(1, iters + 1) if by_iter else sorted(ends):
                for scheduler in by_iter:
                    scheduler.step()
                if step in ends:
                    for scheduler in by_epoch:
                        scheduler.step()

    def _apply_scaler(self, name: str, wrapper: Any, where: str) -> None:
        """Let the loss scale begin as the config says, if that is new."""
        if not self.scalers.get(name):
            return
        own, loaded = self.scalers[name], wrapper.loss_scaler.state_dict()
        static = getattr(wrapper, '_scale_update_param', None) is not None
        keys = ['growth_factor', 'backoff_factor', 'growth_interval']
        found = {
            f'{where}.loss_scale.{key}': (loaded[key], own[key])
            for key in keys + ['scale'] * static if loaded[key] != own[key]
        }
        if found or any(option.startswith(f'{where}.loss_scale')
                        for option in self.changes):
            wrapper.loss_scaler.load_state_dict(own)
            self.changes.update(found)

    def _refuse(self, problems: List[str]) -> None:
        problems = list(dict.fromkeys(problems))
        said = '\n'.join(problems)
        others = {option: values for option, values in self.changes.items()
                  if option not in said}
        raise ValueError(
            'The checkpoint cannot be resumed with this config:\n- ' +
            first_few(problems, _LISTED, '\n- ') + f'\n{ADVICE}' +
            ('\nAlso changed (before -> now):\n' +
             first_few(_lines(others), _LISTED, '\n')) * bool(others))


def _wrong_length(runner, options: Dict[str, str], epoch: int,
                  iteration: int) -> Iterator[str]:
    """A training that would be over, or is counted otherwise."""
    loop = runner.train_loop
    by_iter = isinstance(loop, IterBasedTrainLoop)
    other = 'train_cfg.max_epochs' if by_iter else 'train_cfg.max_iters'
    own = f'train_cfg.max_{"iters" if by_iter else "epochs"}'
    done, length, unit = (
        (iteration, loop.max_iters, 'iteration') if by_iter else
        (epoch, loop.max_epochs, 'epoch'))
    if other in options and own not in options:
        yield (f'{other}={options[other]} in the checkpoint, {own}={length} '
               'in the config: a run counts in epochs or in iterations')
    elif done > length:
        yield (f'{own}={length} in the config, but the checkpoint is of '
               f'{unit} {done}')
    elif done == length:
        runner.logger.warning(
            f'The run is finished, at {unit} {done} of {length}: there is '
            f'nothing left to train. A larger {own} trains longer.')


def _wrong_seed(runner, meta: dict) -> Iterator[str]:
    old = meta.get('seed')
    now = (runner.cfg.get('randomness') or {}).get('seed')
    if None not in (old, now) and old != now:
        yield (f'randomness.seed: {old} in the checkpoint, {now} in the '
               'config')


def _wrong_average(runner, checkpoint: dict) -> Iterator[str]:
    if 'ema_state_dict' in checkpoint and not any(
            isinstance(hook, EMAHook) for hook in runner.hooks):
        yield ('custom_hooks: the checkpoint was written with an EMAHook, '
               'and the config has none. Its state_dict is the average of '
               'the weights, not what the optimizer has trained')


def _wrong_shapes(runner, saved: dict) -> Iterator[str]:
    """MMEngine would go on with what does not fit as it was initialised."""
    own = unwrapped_model(runner).state_dict()
    for name, value in saved.items():
        name = name.removeprefix('module.')
        if name in own and hasattr(value, 'shape') and (
                own[name].shape != value.shape):
            yield (f'model: {name} is {tuple(value.shape)} in the checkpoint, '
                   f'{tuple(own[name].shape)} here')


def _compute_as_built(state: dict, wrapper: Any) -> None:
    """Set how the optimizer computes; PyTorch takes that of the file."""
    groups = [*state['param_groups'], state.get('base_param_settings', {})]
    for key in _IMPLEMENTATION:
        for group in groups:
            if key in group and key in wrapper.optimizer.defaults:
                group[key] = wrapper.optimizer.defaults[key]


def _by_name(parts: Any) -> Dict[str, Any]:
    """Of several optimizers, by name; of a single one, by ''."""
    if isinstance(parts, OptimWrapperDict):
        return dict(parts.items())
    if parts is None or (isinstance(parts, dict)
                         and 'param_groups' not in parts):
        return parts or {}
    return {'': parts}


def _options(group: dict) -> dict:
    return {key: value for key, value in group.items() if key != 'params'}


def _state(scheduler: _ParamScheduler) -> dict:
    return copy.deepcopy(scheduler.state_dict())


def _is_number(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_number, value))
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _base(group: dict, key: str) -> Any:
    """What a schedule starts from; of betas, also the second one."""
    base = group.get(f'initial_{key}', group.get(key))
    if key == 'momentum' and 'betas' in group:
        first = group['betas'][0] if base is None else base
        return (first, *group['betas'][1:])
    return base


def _differences_of_groups(groups: List[dict], built: List[dict],
                           without: set, count: int) -> Changes:
    """Options of the optimizer whose values differ, apart from some.

    The first ``count`` groups are the optimizer's. MMEngine's base settings
    may follow, which lack what was no option when they were written.
    """
    found: Changes = {}
    for key in dict.fromkeys(key for own in built for key in own):
        # 'absent' from a group: that of another optimizer.
        pairs = [(_plain(group.get(key, 'absent')), _plain(own[key]))
                 for index, (group, own) in enumerate(zip(groups, built))
                 if key in own and (key in group or index < count)]
        if key not in without:
            found.update(_different(key, pairs))
    return found


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _different(key: str, pairs: List[Tuple[Any, Any]]) -> Changes:
    """The pair that differs; of groups of several values, the last one.

    That of MMEngine's base settings, if the groups differ among each other.
    """
    pairs = [pair for pair in pairs if pair[0] != pair[1]]
    return {key: pairs[-1]} if pairs else {}


def _differences_of_schedules(saved: List[dict], built: List[dict],
                              schedulers: List[_ParamScheduler]) -> Changes:
    found: Changes = {}
    if len(saved) != len(built):
        found['param_scheduler: schedules'] = (len(saved), len(built))
    for index, (old, new) in enumerate(zip(saved, built)):
        kind = type(schedulers[index]).__name__
        for key in sorted({*old, *new} - _MOVING):
            if old.get(key) != new.get(key):
                found[f'param_scheduler.{index} ({kind}).{key}'] = (
                    old.get(key), new.get(key))
    return found


def _lines(changes: Changes) -> List[str]:
    return [f'    {option}: {old} -> {new}'
            for option, (old, new) in changes.items()]
