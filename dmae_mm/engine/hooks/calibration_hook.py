import copy
import itertools
import time
from typing import Any, Dict

import torch
import torch.nn as nn
from mmengine.dataset import DefaultSampler
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS
from torch.utils.data import DataLoader

from dmae_mm.datasets import SeededSampler
from dmae_mm.datasets.seeds import derive_seed, seed_step
from dmae_mm.host import unwrapped_model
from dmae_mm.models.distillation import Distillation
from dmae_mm.options import reject_unknown_options

from ..step_dump import random_state, set_random_state

SECONDS = 10.0  # between two lines of progress


@HOOKS.register_module()
@reject_unknown_options
class CalibrationHook(Hook):
    """Measures, before a training, what ``target`` of a teacher must know.

    :class:`PHIStandardize` needs statistics of the teacher's tokens. This
    hook runs such teachers on the first ``num_images`` images of the training
    data, cropped and normalised as in the training's first epoch and masked
    at random. Each process takes its share; the statistics are equal in all
    of them, and in the copies of an ``EMAHook``. The training itself goes on
    as if nothing had been drawn or read.

    Checkpoints hold the statistics, so a resumed run measures nothing. With
    ``load_from``, those of the checkpoint are kept if the same teacher wrote
    it, by :class:`TeacherHook`; else they are measured anew.
    """

    # Behind the hooks that let the pipeline skip images or copy the model.
    priority = 'LOW'

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Forget statistics of another teacher, unless the run resumes."""
        if runner._resume:
            return
        meta = checkpoint.get('meta', {})
        before = meta.get('teachers', {'': meta.get('teacher', {})})
        for name, part in _distillations(unwrapped_model(runner)).items():
            if not part.unmeasured_targets():
                continue
            prefix = f'distill_targets.{name}.' if name else 'distill_target.'
            measured = [
                key for key in checkpoint.get('state_dict', ())
                if key.startswith(prefix) and key.endswith('.is_fitted')
            ]
            if measured and before.get(name, {}).get(
                    'fingerprint') != part.teacher.fingerprint():
                for key in measured:
                    checkpoint['state_dict'][key] = torch.tensor(False)

    def before_train(self, runner) -> None:
        """Measure what has not been measured.

        Raises:
            ValueError: If there are fewer images than that, or too few for
                the teacher's width.
        """
        model = unwrapped_model(runner)
        shares = {}  # images of this process for each teacher
        for name, part in _distillations(model).items():
            for target in part.unmeasured_targets():
                _check_enough(name, part, target,
                              runner.train_dataloader.dataset)
                shares[name] = len(
                    range(get_rank(), target.num_images, get_world_size()))
        if not shares:
            return
        state = random_state()
        try:
            seed_step(derive_seed('calibration', get_rank()))
            _measure(runner, model, shares)
        finally:
            set_random_state(state)
        for hook in runner.hooks:
            average = getattr(getattr(hook, 'ema_model', None), 'module', None)
            for name in shares if average is not None else ():
                _distillations(average)[name].targets.load_state_dict(
                    _distillations(model)[name].targets.state_dict())


def _distillations(model: nn.Module) -> Dict[str, Distillation]:
    return getattr(getattr(model, 'distillations', None), 'by_name', {})


def _check_enough(name: str, part: Distillation, target: nn.Module,
                  dataset: Any) -> None:
    """Refuse what would fail after minutes, or give no full covariance."""
    option = f'{f"teachers.{name}." if name else ""}target'
    given = f'{option}: num_images={target.num_images}'
    images = len(dataset) if hasattr(dataset, '__len__') else None
    if images is None:
        raise ValueError(
            f'{given}, but train_dataloader.dataset, a '
            f'{type(dataset).__name__}, cannot be read by index, so nothing '
            f"can be measured. Choose {option}=dict(type='Standardize').")
    if images < target.num_images:
        raise ValueError(f'{given}, but train_dataloader has {images} images. '
                         'Give at most as many.')
    tokens, width = part.num_targets(), part.teacher.embed_dims
    if tokens and target.num_images * tokens <= width:
        raise ValueError(
            f'{given} of {tokens} tokens give '
            f'{target.num_images * tokens}, but statistics of {width} '
            'channels need more than that many. Give at least '
            f'{width // tokens + 1}.')


def _measure(runner, model: nn.Module, shares: Dict[str, int]) -> None:
    """Run the teachers, each on its share of images."""
    parts = {name: _distillations(model)[name] for name in shares}
    targets = [
        target for part in parts.values()
        for target in part.unmeasured_targets()
    ]
    total, done = max(shares.values()), 0
    titles = ', '.join(f'{name} ' * bool(name) + f'on {share} images'
                       for name, share in shares.items())
    runner.logger.info('Calibration: the statistics of the teacher '
                       f'{titles} in each process.')
    begun = said = time.monotonic()
    for batch in _batches(runner.train_dataloader, total):
        images = model.data_preprocessor(batch, True)['inputs']
        for name, part in parts.items():
            if shares[name] > done:
                part.measure_targets(images[:shares[name] - done])
        done += len(images)
        now = time.monotonic()
        if now - said > SECONDS and done < total:
            said = now
            runner.logger.info(
                f'Calibration: {done} of {total} images, about '
                f'{(now - begun) / done * (total - done):.0f} s left.')
    for target in targets:
        target.finish()
    runner.logger.info(
        f'Calibration: done in {time.monotonic() - begun:.0f} s.')


def _batches(train: DataLoader, number: int) -> DataLoader:
    """The first images that the training will see in this process.

    A loader of its own: that of the training is left alone.
    """
    sampler = getattr(train.batch_sampler, 'sampler', train.sampler)
    if isinstance(sampler, SeededSampler):
        sampler = copy.copy(sampler)
        sampler.set_epoch(0)
        sampler.skip(0)
    else:  # another may be used up by this
        sampler = DefaultSampler(train.dataset, shuffle=True, seed=0)
    return DataLoader(
        train.dataset,
        batch_size=getattr(train.batch_sampler, 'batch_size', None)
        or train.batch_size or 1,
        sampler=itertools.islice(iter(sampler), number),
        num_workers=train.num_workers,
        collate_fn=train.collate_fn,
        worker_init_fn=train.worker_init_fn,
        multiprocessing_context=train.multiprocessing_context,
        generator=torch.Generator().manual_seed(0))
