"""A recipe for another number of epochs, its schedule in proportion."""
import math
from fractions import Fraction
from typing import Any, List

from mmengine.config import Config

from dmae_mm.engine.schedule_notes import schedule_end, schedulers

# Epochs, or iterations, of a schedule that may be parts of an epoch where
# MMEngine counts in iterations, and those that it compares with whole epochs.
_SPANS, _STEPS = ('begin', 'end', 'T_max', 'total_steps'), (
    'milestones', 'step_size', 'periods')


def set_epochs(cfg: Config, epochs: int) -> None:
    """Train a recipe as a whole for fewer, or more, epochs.

    Warm-up and decay keep their parts of the training: 20 epochs of warm-up
    and 80 of a cosine, trained for 3, become 0.6 and 2.4. Parts of an epoch
    are counted in iterations.

    Args:
        cfg (Config): Is changed: ``train_cfg.max_epochs`` and
            ``param_scheduler``.
        epochs (int): The new length, at least 1.

    Raises:
        ValueError: If the number is none, or the config counts iterations.
    """
    if type(epochs) is not int or epochs < 1:
        raise ValueError(f'{epochs!r} epochs: a whole number of at least 1 '
                         'is expected')
    train_cfg = cfg.get('train_cfg') or {}
    if type(train_cfg.get('max_epochs')) is not int:
        raise ValueError(_counts_iterations(cfg))
    chosen = [scheduler for scheduler in schedulers(cfg).values()
              if isinstance(scheduler, dict)]
    # Longer than the training where only max_epochs was changed before.
    length = max([train_cfg.max_epochs, *(
        schedule_end(scheduler) for scheduler in chosen
        if scheduler.get('by_epoch', True))])
    factor = Fraction(epochs) / Fraction(length)
    for scheduler in chosen:
        _scale(scheduler, factor)
    train_cfg.max_epochs = epochs


def _scale(scheduler: dict, factor: Fraction) -> None:
    by_epoch = scheduler.get('by_epoch', True)
    # Left out, it follows from begin and end, in whole iterations.
    begin, end = scheduler.get('begin', 0), scheduler.get('end')
    if end is not None and scheduler.get('T_max') == end - begin:
        del scheduler['T_max']
    stepwise = any(scheduler.get(key) for key in _STEPS)
    for key in (*_SPANS, *_STEPS):
        value = scheduler.get(key)
        if value:
            whole = stepwise or not by_epoch
            scheduler[key] = [
                _times(item, factor, whole) for item in value
            ] if isinstance(value, (list, tuple)) else _times(
                value, factor, whole)
            if isinstance(scheduler[key], float):
                scheduler['convert_to_iter_based'] = True


def _times(value: Any, factor: Fraction, whole: bool) -> Any:
    """As an int where it is one; as the nearest, at least 1, if asked."""
    if math.isinf(value) or value >= 10**9:
        return value  # without end
    product = Fraction(value).limit_denominator(10**6) * factor
    if whole or product.denominator == 1:
        return max(1, round(product))
    return float(product)


def _counts_iterations(cfg: Config) -> str:
    train_cfg = cfg.get('train_cfg') or {}
    options: List[str] = [
        f'{option}.{key}={scheduler[key]}'
        for option, scheduler in schedulers(cfg).items()
        if isinstance(scheduler, dict) for key in (*_SPANS, *_STEPS)
        if scheduler.get(key)]
    return ('the config has no train_cfg.max_epochs: it counts iterations, '
            f'train_cfg.max_iters={train_cfg.get("max_iters")}. Change that '
            f'by --cfg-options, and in proportion {", ".join(options)}'
            if options else 'the config has no train_cfg.max_epochs: change '
            'train_cfg.max_iters by --cfg-options')
