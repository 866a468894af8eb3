"""Whether the schedule of the learning rate fits the training."""
from typing import Any, Dict, List

from mmengine.config import Config
from mmengine.runner import IterBasedTrainLoop, Runner

_ENDLESS = 10**9  # what MMEngine takes for an `end` that is not given
# What says when a schedule acts, beside `begin` and `end`.
_SPANS = ('T_max', 'total_steps', 'milestones', 'periods', 'step_size')
# Those that come to rest at the value of their end.
_FALLING = ('CosineAnnealing', 'Poly', 'OneCycle')


def schedulers(cfg: Config) -> Dict[str, Any]:
    """Option and value of each schedule of the optimizer."""
    section = cfg.get('param_scheduler')
    if isinstance(section, (list, tuple)):
        return {f'param_scheduler.{index}': scheduler
                for index, scheduler in enumerate(section)}
    return {} if section is None else dict(param_scheduler=section)


def schedule_notes(runner: Runner) -> List[str]:
    """Say if a schedule goes on after the training, or ends before it.

    Both are legal, but the learning rate then never gets where it should, or
    stays at its lowest value. A warm-up alone may well end earlier.

    Args:
        runner (Runner): Whose training has begun.

    Returns:
        list[str]: A note for schedules by epoch, and one for those by
        iteration, with their options.
    """
    lengths = [('iteration', False, runner.max_iters)]
    if not isinstance(runner.train_loop, IterBasedTrainLoop):
        lengths.append(('epoch', True, runner.max_epochs))
    notes = []
    for unit, by_epoch, length in lengths:
        chosen = {option: scheduler
                  for option, scheduler in schedulers(runner.cfg).items()
                  if isinstance(scheduler, dict)
                  and scheduler.get('by_epoch', True) is by_epoch}
        last = max(map(schedule_end, chosen.values()), default=0)
        falls = any(
            str(scheduler.get('type')).rpartition('.')[2].startswith(_FALLING)
            and schedule_end(scheduler) == last
            for scheduler in chosen.values())
        if last > length or (0 < last < length and falls):
            options = ', '.join(
                f'{option}.{key}={scheduler[key]}'
                for option, scheduler in chosen.items()
                for key in ('begin', 'end', *_SPANS) if scheduler.get(key))
            too = 'long' if last > length else 'short'
            notes.append(
                f"the learning rate's schedule ends at {unit} {last:g}, the "
                f'training at {length}{_so_far(chosen, length)}: change what '
                f'is too {too} among {options}' + by_epoch * (
                    f'; or give tools/train.py --epochs {length} instead of '
                    f'train_cfg.max_epochs={length}'))
    return notes


def schedule_end(scheduler: dict) -> float:
    """When a schedule makes its last change; 0 if there is no such time."""
    begin, end = scheduler.get('begin', 0), scheduler.get('end')
    for span in (scheduler.get('T_max'), scheduler.get('total_steps'),
                 sum(scheduler.get('periods', []))):
        if span:
            end = begin + span
    if end is None or end >= _ENDLESS:
        end = 0
    # A step at the very end of the training would have no effect.
    steps = [step + 1 for step in scheduler.get('milestones') or []]
    if scheduler.get('step_size'):
        steps.append(begin + scheduler['step_size'] + 1)
    return max([end, *steps])


def _so_far(chosen: Dict[str, dict], length: int) -> str:
    """How far a warm-up gets, inside of which the training ends."""
    for scheduler in chosen.values():
        end, begin = scheduler.get('end') or 0, scheduler.get('begin', 0)
        first, last = (scheduler.get('start_factor', 1 / 3),
                       scheduler.get('end_factor', 1.0))
        if str(scheduler.get('type')).endswith('LinearLR') and (
                begin <= length < end) and first < last:
            part = first + (last - first) * (length - begin) / (end - begin)
            return (', inside of the warm-up, where it has reached '
                    f'{part:.0%} of its value')
    return ''
