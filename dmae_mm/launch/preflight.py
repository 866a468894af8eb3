"""tools/train.py --check: all that can be known before a run starts."""
import contextlib
import copy
import logging
import os
import os.path as osp
import shutil
import tempfile
from typing import Any, Callable, Iterator, List, Optional

import torch.nn as nn
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import (DATASETS, HOOKS, MODELS, PARAM_SCHEDULERS,
                               DefaultScope)
from mmengine.visualization import Visualizer

from dmae_mm.datasets.pipelines import let_skip

from .explain import explain
from .measure import Enough, FewStepsHook, checkpoint, duration, memory
from .missing_files import TRAINING, missing_files
from .schedule_notes import schedule_notes
from .start import build_runner, shorten_console
from .static_problems import static_problems


class Preflight:
    """Builds all parts of a run, makes some steps, and measures.

    Nothing is left behind: what a run writes goes to a temporary folder
    inside the work dir, on the same disk, and is removed.

    Args:
        cfg (Config): Completed. Is not changed.
        say (Callable): Takes each line of the report. Defaults to ``print``.
    """

    def __init__(self, cfg: Config,
                 say: Callable[[str], None] = print) -> None:
        self.cfg = copy.deepcopy(cfg)
        # A step is an optimizer step here, so that all memory is in use.
        self.counts = self.cfg.optim_wrapper.pop('accumulative_counts', 1)
        self.say = say
        self.notes: List[str] = []

    def run(self) -> bool:
        """Check everything and report.

        Returns:
            bool: Whether the run can be started.
        """
        problems = static_problems(self.cfg)
        with _work_dir(self.cfg, problems):
            if not problems:
                # Of parts that are built before the run has its own logger.
                shorten_console(MMLogger.get_current_instance())
                problems = self._parts()
            if not problems:
                problems = self._steps()
        if problems:
            self.say(f'{len(problems)} problem'
                     f'{"s" if len(problems) > 1 else ""}:')
            for problem in problems:
                self.say('- ' + problem.replace('\n', '\n  '))
        else:
            self.say('Everything works: the run can be started.')
        for note in missing_files(self.cfg, ('test_dataloader', ),
                                  checkpoints=False):
            self.notes.append(f'for a later test, {note}')
        for note in self.notes:
            self.say(f'Note: {note}')
        return not problems

    def _parts(self) -> List[str]:
        """Build each section by itself, so that all errors are found."""
        problems = []
        self.model: Optional[nn.Module] = None
        for build in (self._model, self._optimizer, self._data, self._hooks,
                      self._evaluators):
            with DefaultScope.overwrite_default_scope(
                    self.cfg.get('default_scope', 'mmengine')):
                problems += build()
        return problems

    def _try(self, build: Callable[[], Any]) -> List[str]:
        try:
            build()
        except Exception as error:  # whatever a class raises
            return [explain(error, self.cfg)]
        return []

    def _model(self) -> List[str]:
        model = copy.deepcopy(self.cfg.model)
        if self.cfg.get('data_preprocessor') is not None:
            model.setdefault('data_preprocessor', self.cfg.data_preprocessor)

        def build() -> None:
            self.model = MODELS.build(model)

        return self._try(build)

    def _optimizer(self) -> List[str]:
        """The optimizer and its schedule, of any parameters if need be."""
        section = copy.deepcopy(self.cfg.optim_wrapper)
        if self.model is None and section.get('constructor'):
            return []  # it asks the model what its layers are

        def build() -> None:
            wrapper = build_optim_wrapper(self.model or nn.Linear(1, 1),
                                          section)
            schedulers = self.cfg.get('param_scheduler') or []
            for scheduler in ([schedulers] if isinstance(schedulers, dict) else
                              schedulers):
                PARAM_SCHEDULERS.build(
                    copy.deepcopy(scheduler),
                    default_args=dict(optimizer=wrapper, epoch_length=1))

        return self._try(build)

    def _data(self) -> List[str]:
        problems = []
        skips = any(str(hook.get('type')).endswith('SkippedImagesHook')
                    for hook in self._hook_cfgs())
        for name in TRAINING:
            dataset_cfg = (self.cfg.get(name) or {}).get('dataset')
            if not isinstance(dataset_cfg, dict):
                continue

            def read(dataset_cfg=dataset_cfg,
                     skips=skips and name == 'train_dataloader') -> None:
                dataset = DATASETS.build(dataset_cfg)
                if hasattr(dataset, 'full_init'):
                    dataset.full_init()
                if hasattr(dataset, '__len__') and len(dataset) == 0:
                    raise ValueError('this data set is empty')
                if skips:
                    let_skip(dataset)
                if hasattr(dataset, '__getitem__'):
                    self.notes += [f'{path!r} is broken and would be skipped: '
                                   f'{why}' for path, why in
                                   _skipped(dataset[0])]

            problems += self._try(read)
        return problems

    def _hook_cfgs(self) -> List[dict]:
        return [hook for hook in (
            *(self.cfg.get('default_hooks') or {}).values(),
            *(self.cfg.get('custom_hooks') or [])) if isinstance(hook, dict)]

    def _hooks(self) -> List[str]:
        Visualizer.get_instance('check')  # those that draw ask for the current
        return [
            problem for hook in self._hook_cfgs()
            for problem in self._try(lambda hook=hook: HOOKS.build(
                {key: value for key, value in hook.items()
                 if key != 'priority'}))
        ]

    def _evaluators(self) -> List[str]:
        return [
            problem for name in ('val_evaluator', 'test_evaluator')
            if self.cfg.get(name) is not None for problem in self._try(
                lambda name=name: Evaluator(self.cfg[name])
                if isinstance(self.cfg[name], (list, tuple)) else Evaluator(
                    [self.cfg[name]]))
        ]

    def _steps(self) -> List[str]:
        """Start the run itself, and stop it after a few steps."""
        kept = (self.cfg.default_hooks.get('checkpoint')
                or {}).get('max_keep_ckpts', -1)
        steps = FewStepsHook()
        try:
            runner = build_runner(self.cfg)
            shorten_console(runner.logger)
            runner.register_hook(steps, priority='LOWEST')
            with contextlib.suppress(Enough):
                runner.train()
            report = [
                *memory(runner, steps.gradients),
                *duration(runner, steps.seconds, self.counts),
                *checkpoint(runner, kept)
            ]
            self.notes += schedule_notes(runner)
        except Exception as error:  # whatever a class raises
            return [explain(error, self.cfg)]
        for line in report:
            self.say(line)
        return []


def _skipped(sample: Any) -> list:
    """Path and reason of the files in whose place a sample was drawn."""
    packed = sample.get('data_samples') if isinstance(sample, dict) else None
    return getattr(packed, 'metainfo', {}).get('skipped_images', [])


@contextlib.contextmanager
def _work_dir(cfg: Config, problems: List[str]) -> Iterator[None]:
    """Work in a folder of its own inside the work dir, and remove it."""
    work_dir = osp.abspath(cfg.work_dir)
    new = work_dir
    while not osp.isdir(osp.dirname(new)):  # the topmost that is not there
        new = osp.dirname(new)
    existed = osp.isdir(work_dir)
    try:
        os.makedirs(work_dir, exist_ok=True)
        folder = tempfile.mkdtemp(prefix='.check-', dir=work_dir)
    except OSError as error:
        problems.append(f'cannot write to the work dir {cfg.work_dir!r}: '
                        f'{error}')
        yield
        return
    cfg.work_dir, cfg.log_level = folder, 'WARNING'
    cfg.resume = False
    try:
        yield
    finally:
        logger = MMLogger.get_current_instance()
        for handler in list(logger.handlers):
            if isinstance(handler, logging.FileHandler):  # in the folder
                logger.removeHandler(handler)
                handler.close()
        shutil.rmtree(folder, ignore_errors=True)
        if not existed:
            with contextlib.suppress(OSError):  # something has come into it
                while len(work_dir) >= len(new):
                    os.rmdir(work_dir)
                    work_dir = osp.dirname(work_dir)
