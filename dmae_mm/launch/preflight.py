"""tools/train.py --check: all that can be known before a run starts."""
import contextlib
import copy
import logging
import os
import tempfile
from pathlib import Path
from typing import Any, Callable, Iterator, List

import torch.nn as nn
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import (DATASETS, HOOKS, MODELS, PARAM_SCHEDULERS,
                               DefaultScope)
from mmengine.visualization import Visualizer

from dmae_mm.datasets.pipelines import let_skip
from dmae_mm.engine.schedule_notes import schedulers
from dmae_mm.engine.work_dir import PREEMPTED, refuse_to_overwrite
from dmae_mm.messages import first_few

from .explain import explain
from .image_files import image_files
from .measure import measure_steps
from .missing_files import TRAINING, missing_files
from .sections import hooks
from .start import shorten_console
from .static_problems import static_problems

MAX_NAMED = 5  # broken images

def preflight(cfg: Config, say: Callable[[str], None] = print) -> bool:
    """Build all parts of a run, make some steps, measure, and report.

    Nothing is left behind: what a run writes goes to a temporary folder
    inside the work dir, on the same disk, and is removed.

    Args:
        cfg (Config): Completed. Is not changed.
        say (Callable): Takes each line of the report. Defaults to ``print``.

    Returns:
        bool: Whether the run can be started.
    """
    cfg = copy.deepcopy(cfg)
    notes: List[str] = []
    counts: List[str] = []
    problems = static_problems(cfg) + _earlier_run(cfg)
    with _own_work_dir(cfg, problems):
        if not problems:
            # Of parts that are built before the run has its own logger.
            shorten_console(MMLogger.get_current_instance())
            problems += _parts(cfg, notes, counts)
        if not problems:
            try:
                for line in [*measure_steps(cfg, notes), *counts]:
                    say(line)
            except Exception as error:  # whatever a class raises
                problems.append(explain(error, cfg))
    if problems:
        say(f'{len(problems)} problem{"s" if len(problems) > 1 else ""}:')
        for problem in problems:
            say('- ' + problem.replace('\n', '\n  '))
    else:
        say('Everything works: the run can be started.')
    notes += [
        f'for a later test, {note}'
        for note in missing_files(cfg, ('test_dataloader', ), False)
    ]
    for note in notes:
        say(f'Note: {note}')
    return not problems


def _earlier_run(cfg: Config) -> List[str]:
    """Whether the start would be refused for what is in the work dir."""
    if os.path.isfile(os.path.join(cfg.work_dir, PREEMPTED)):
        return []  # it goes on, or says what else
    try:
        refuse_to_overwrite(cfg.work_dir, cfg)
    except ValueError as error:
        return [str(error)]
    return []


def _parts(cfg: Config, notes: List[str], counts: List[str]) -> List[str]:
    """Build each section by itself, so that all errors are found."""
    problems = []

    def attempt(section: str, build: Callable, *args: Any,
                **kwargs: Any) -> Any:
        try:
            with DefaultScope.overwrite_default_scope(
                    cfg.get('default_scope', 'mmengine')):
                return build(*args, **kwargs)
        except Exception as error:  # whatever a class raises
            problems.append(explain(error, cfg, section))

    model_cfg = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model_cfg.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = attempt('', MODELS.build, model_cfg)  # more than one section
    # A constructor asks the model what its layers are; without one, any
    # parameters do.
    if model is not None or not cfg.optim_wrapper.get('constructor'):
        wrapper = attempt('optim_wrapper', build_optim_wrapper,
                          nn.Linear(1, 1) if model is None else model,
                          copy.deepcopy(cfg.optim_wrapper))
        if wrapper is not None:
            for option, scheduler in schedulers(cfg).items():
                attempt(option, PARAM_SCHEDULERS.build,
                        copy.deepcopy(scheduler),
                        default_args=dict(
                            optimizer=wrapper, epoch_length=1000))
    skips = any(str(hook.get('type')).endswith('SkippedImagesHook')
                for hook in hooks(cfg).values() if isinstance(hook, dict))
    for name in TRAINING:
        if cfg.get(name) is not None:
            found = attempt(f'{name}.dataset', _read_first, cfg[name].dataset,
                            skips and name == 'train_dataloader')
            if found is not None:
                counts += [f'{name}: {line}' for line in found[:1] if line]
                notes += found[1:]
    Visualizer.get_instance('check')  # hooks that draw ask for the current
    for option, hook in hooks(cfg).items():
        if isinstance(hook, dict):
            attempt(option, HOOKS.build, {
                key: value for key, value in hook.items()
                if key != 'priority'
            })
    for name in ('val_evaluator', 'test_evaluator'):
        if cfg.get(name) is not None:
            attempt(name, Evaluator, cfg[name])
    return problems


def _read_first(dataset_cfg: dict, skip: bool) -> List[str]:
    """Read a sample; the number of files, and notes on broken ones."""
    if not isinstance(dataset_cfg, dict):
        return ['']
    dataset = DATASETS.build(dataset_cfg)
    if hasattr(dataset, 'full_init'):
        dataset.full_init()
    if hasattr(dataset, '__len__') and len(dataset) == 0:
        raise ValueError('this data set is empty')
    if skip:
        let_skip(dataset)
    sample = dataset[0] if hasattr(dataset, '__getitem__') else None
    packed = sample.get('data_samples') if isinstance(sample, dict) else None
    counted, broken = image_files(dataset)
    broken.update(
        getattr(packed, 'metainfo', {}).get('skipped_images', []))
    if broken and not skip:
        named = [f'{path!r} ({why})' for path, why in broken.items()]
        raise ValueError(
            f'{len(broken)} images are broken, and each would end the run: '
            f'{first_few(named)}. Repair or remove them, or skip such files: '
            "custom_hooks with dict(type='SkippedImagesHook'). " + counted)
    notes = [f'{path!r} is broken and would be skipped: {why}'
             for path, why in list(broken.items())[:MAX_NAMED]]
    if len(broken) > MAX_NAMED:
        notes.append(f'{len(broken) - MAX_NAMED} more broken images would be '
                     'skipped')
    return [counted, *notes]


@contextlib.contextmanager
def _own_work_dir(cfg: Config, problems: List[str]) -> Iterator[None]:
    """Work in a folder of its own inside the work dir, and remove it."""
    work_dir = Path(cfg.work_dir).absolute()
    new = [folder for folder in (work_dir, *work_dir.parents)
           if not folder.is_dir()]
    try:
        os.makedirs(work_dir, exist_ok=True)
        own = tempfile.TemporaryDirectory(
            prefix='.check-', dir=work_dir, ignore_cleanup_errors=True)
    except OSError as error:
        problems.append(f'cannot write to the work dir {cfg.work_dir!r}: '
                        f'{error}')
        yield
        return
    cfg.work_dir, cfg.log_level, cfg.resume = own.name, 'WARNING', False
    # MMEngine's loggers and message hubs are found by it: the run itself,
    # started in the same second, would have those of the check.
    cfg.experiment_name = os.path.basename(own.name)
    try:
        yield
    finally:
        logger = MMLogger.get_current_instance()
        for handler in list(logger.handlers):
            if isinstance(handler, logging.FileHandler):  # in the folder
                logger.removeHandler(handler)
                handler.close()
        own.cleanup()
        with contextlib.suppress(OSError):  # something has come into it
            for folder in new:
                folder.rmdir()
