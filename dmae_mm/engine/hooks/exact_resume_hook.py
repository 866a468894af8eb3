from typing import Optional, Sequence

from mmengine.dist import get_rank, get_world_size
from mmengine.runner import IterBasedTrainLoop
from mmpretrain.registry import HOOKS

from dmae_mm.datasets.seeds import derive_seed, seed_step
from dmae_mm.options import reject_unknown_options

from ..resuming import check_seeding, why_not_inside_epoch
from .follow_config_hook import FollowConfigHook


@HOOKS.register_module()
@reject_unknown_options
class ExactResumeHook(FollowConfigHook):
    """Makes a resumed run go on as if it had never stopped.

    Masks, drop path and whatever else a training step draws are seeded anew
    for each step, from the run's seed, the iteration and the process. The
    samples have seeds of their own: see ``SeededSampler`` and ``SeedSample``.
    No random state has to be stored, then, and none depends on the number
    of workers of the data loader, which may live through all epochs
    (``persistent_workers=True``).

    A checkpoint gets ``meta['position']``: how many batches of the epoch are
    done, and of what size; with it, ``ResumableTrainLoop`` goes on inside an
    epoch. Also the seed of the data's order, which is another in each run
    where the config has no seed.

    Where the config differs from the checkpoint's, see ``FollowConfigHook``.
    """

    # The current epoch, and its first iteration.
    _epoch, _first_iter = -1, 0

    def before_train(self, runner) -> None:
        """Check that sampler and pipeline belong together; apply the config.

        Raises:
            ValueError: If they do not, or something cannot be applied.
        """
        super().before_train(runner)
        check_seeding(runner)

    def before_train_epoch(self, runner) -> None:
        """Seed what is drawn outside of steps, and note where this is."""
        seed_step(derive_seed('epoch', runner.seed, runner.epoch, get_rank()))
        self._epoch = runner.epoch
        self._first_iter = runner.iter - getattr(runner.train_loop,
                                                 'batches_done', 0)

    def before_train_iter(self,
                          runner,
                          batch_idx: int,
                          data_batch: Optional[Sequence[dict]] = None) -> None:
        """Seed the step."""
        seed_step(derive_seed('step', runner.seed, runner.iter, get_rank()))

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Store the position in the epoch."""
        meta = checkpoint['meta']
        # A checkpoint at the end of an epoch counts it as done.
        inside = meta['epoch'] == self._epoch
        meta['position'] = dict(
            batches_done=meta['iter'] - self._first_iter if inside else 0,
            **_data(runner))

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Tell the loop where to go on.

        Raises:
            ValueError: If the run would not go on exactly.
        """
        super().after_load_checkpoint(runner, checkpoint)
        if not runner._resume:
            return
        meta, loop = checkpoint['meta'], runner.train_loop
        now, sampler = _data(runner), loop.dataloader.sampler
        position = meta.get('position') or dict(  # written without this hook
            now,
            sampler_seed=None,
            batches_done=meta['iter'] -
            meta['epoch'] * now['batches_per_epoch'])
        if position['sampler_seed'] is not None and hasattr(sampler, 'seed'):
            sampler.seed = position['sampler_seed']
        done = position['batches_done']
        if isinstance(loop, IterBasedTrainLoop) or not done:
            self._note_other_data(runner, position, now)
            return
        where = (f'The checkpoint was written inside an epoch, after {done} '
                 f'of {position["batches_per_epoch"]} batches, and cannot be '
                 'resumed exactly')
        for key, what in (('images_per_step', 'images a batch, all processes '
                           'together'), ('batches_per_epoch',
                                         'batches an epoch')):
            if position[key] != now[key]:
                raise ValueError(
                    f'{where}: it was {position[key]} {what}, and is '
                    f'{now[key]}. Train with the same data, batch size and '
                    'number of processes, or resume from an epoch_*.pth.')
        reason = why_not_inside_epoch(runner)
        if reason is not None:
            raise ValueError(f'{where}: {reason}; or resume from an '
                             'epoch_*.pth.')
        if not 0 < done <= now['batches_per_epoch']:
            raise ValueError(f'{where}: it says {done} batches. Resume from '
                             'an epoch_*.pth of this run.')
        if position['processes'] != now['processes']:
            runner.logger.warning(
                f'Resuming with {now["processes"]} instead of '
                f'{position["processes"]} processes: each step has the same '
                'images and crops, but other masks.')
        loop.batches_done = done


    def _note_other_data(self, runner, before: dict, now: dict) -> None:
        """Say what the data are counted in from here on.

        Raises:
            ValueError: If schedules would be at another place of their curve.
        """
        found = {key: (before[key], now[key])
                 for key in ('images_per_step', 'batches_per_epoch')
                 if before[key] != now[key]}
        self._resumed.changes.update(found)
        schedules = runner.param_schedulers or []
        if isinstance(schedules, dict):
            schedules = sum(schedules.values(), [])
        if ('batches_per_epoch' in found
                and not isinstance(runner.train_loop, IterBasedTrainLoop)
                and not all(schedule.by_epoch for schedule in schedules)):
            old, new = found['batches_per_epoch']
            raise ValueError(
                f'An epoch had {old} batches in the checkpoint and has {new} '
                'here, and a schedule counts batches (param_scheduler with '
                'convert_to_iter_based or by_epoch=False): it would be at '
                'another place of its curve. Train with the same data, batch '
                'size and number of processes, or with schedules by epoch.')


def _data(runner) -> dict:
    """What the place in an epoch is counted in."""
    dataloader = runner.train_loop.dataloader
    batch_size, processes = dataloader.batch_size, get_world_size()
    return dict(
        batches_per_epoch=len(dataloader),
        images_per_step=batch_size and batch_size * processes,
        processes=processes,
        sampler_seed=getattr(dataloader.sampler, 'seed', None))
