"""Whether the schedule of the learning rate ends with the training."""
from typing import List

from mmengine.runner import IterBasedTrainLoop, Runner

from .sections import schedulers

_ENDLESS = 10**9  # what MMEngine takes for an `end` that is not given


def schedule_notes(runner: Runner) -> List[str]:
    """Say if a schedule goes on after the end of the training.

    It is legal, but the learning rate then never gets where it should. One
    that ends earlier is usual: a warm-up, for example.

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
        last = max(map(_end, chosen.values()), default=0)
        if last > length:
            options = ', '.join(
                f'{option}.{key}={scheduler[key]}'
                for option, scheduler in chosen.items()
                for key in ('begin', 'end', 'T_max') if scheduler.get(key))
            notes.append(
                f"the learning rate's schedule ends at {unit} {last}, the "
                f'training at {length}: change what is too long among '
                f'{options}')
    return notes


def _end(scheduler: dict) -> int:
    """0 if there is none."""
    end = scheduler.get('end')
    if end is None and 'T_max' in scheduler:
        end = scheduler.get('begin', 0) + scheduler['T_max']
    return end if isinstance(end, int) and end < _ENDLESS else 0
