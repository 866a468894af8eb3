import hashlib
import locale
import os.path as osp
import pickle
from typing import Any, Optional, Sequence

from mmengine.dist import is_main_process, master_only
from mmengine.hooks import CheckpointHook
from mmengine.runner import (BaseLoop, CheckpointLoader, Runner,
                             save_checkpoint)
from mmpretrain.registry import HOOKS

from dmae_mm.files import NO_SPACE, CannotWrite, remove_leftovers
from dmae_mm.options import reject_unknown_options

from ..checkpointing import (check_before_resuming, whole_files,
                             write_run_file)
from ..resuming import pending_gradients, why_not_inside_epoch
from ..work_dir import (forget_earlier_run, lock_work_dir,
                        refuse_to_overwrite)
from .follow_config_hook import FollowConfigHook

MID_EPOCH = 'mid_epoch.pth'


@HOOKS.register_module()
@reject_unknown_options
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook`` for runs that can die at any moment.

    At each moment ``last_checkpoint`` names a checkpoint that is whole: files
    are written aside and then renamed, and an old one is removed after the
    new one is there. That takes the space of one checkpoint more; on a disk
    that lacks it, the old one goes first if another remains. Local files are
    written so unless ``backend_args`` asks for something else.

    It can also save inside an epoch, to ``mid_epoch.pth``, which is replaced
    each time and removed with the next checkpoint of an epoch.

    Checkpoints hold no gradients. Where gradients are accumulated, a
    checkpoint that is due while some wait is written after the optimizer's
    next step; that of an epoch's end then keeps the epoch's name.

    Before the training starts, it locks the work dir against a second run,
    removes what interrupted writes have left, and refuses to resume from a
    damaged checkpoint, or to begin anew over those of an earlier run; a
    config with ``overwrite=True`` asks for that. It does the work of a
    ``FollowConfigHook`` where there is none.

    Args:
        mid_epoch_interval (int): Iterations from one save inside an epoch to
            the next. Defaults to 0: none, but see ``PreemptionHook``.
        **options: Those of ``CheckpointHook``.
    """

    def __init__(self, mid_epoch_interval: int = 0, **options: Any) -> None:
        if type(mid_epoch_interval) is not int or mid_epoch_interval < 0:
            raise ValueError(
                f'{type(self).__name__}: mid_epoch_interval='
                f'{mid_epoch_interval!r} is not a number of iterations: an '
                'int, 0 for none.')
        super().__init__(**options)
        self.mid_epoch_interval = mid_epoch_interval
        self._due = False  # a save inside the epoch
        self._postponed: Optional[int] = None  # step of another checkpoint
        self._saved_iter = -1
        self._follow_config = FollowConfigHook()

    def before_run(self, runner) -> None:
        """Lock and clean the work dir, check what is resumed from.

        Raises:
            WorkDirInUse: If another run has the work dir.
            ValueError: If the checkpoint is damaged, or those of an earlier
                run would be written over.
        """
        self._follow_config.before_run(runner)
        if not isinstance(runner._train_loop, BaseLoop):
            return  # nothing is trained
        if is_main_process():
            lock_work_dir(runner.work_dir)
            for name in remove_leftovers(runner.work_dir):
                runner.logger.info(f'Removed {name}, left by a run that was '
                                   'interrupted while it was writing.')
        if runner._resume:
            check_before_resuming(runner.work_dir, runner._load_from)
        if runner.iter == 0:
            refuse_to_overwrite(runner.work_dir, _intention(runner))

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Compare it with the config, if no other hook does.

        Raises:
            ValueError: If something differs that cannot be applied.
        """
        if not any(isinstance(hook, FollowConfigHook)
                   for hook in runner.hooks):
            self._follow_config.after_load_checkpoint(runner, checkpoint)

    def before_train(self, runner) -> None:
        """Prepare saving.

        Raises:
            ValueError: If the config wants checkpoints inside epochs, but
                cannot resume from them, or differs from that of a checkpoint
                in what cannot be applied.
        """
        self._follow_config.before_train(runner)
        if is_main_process() and runner.iter == runner.epoch == 0:
            forget_earlier_run(runner.work_dir)
        if self.backend_args is None and self.file_client_args is None:
            self.backend_args = whole_files(
                str(self.out_dir or runner.work_dir))
        super().before_train(runner)
        reason = why_not_inside_epoch(runner)
        if self.mid_epoch_interval and reason:
            raise ValueError('AtomicCheckpointHook: mid_epoch_interval='
                             f'{self.mid_epoch_interval} would be of no use: '
                             f'{reason}.')
        # A run killed before it could remove it has left it.
        self._remove_step(
            runner.message_hub.runtime_info.get('removed_ckpt_id'))

    def after_train_iter(self,
                         runner,
                         batch_idx: int,
                         data_batch: Optional[Sequence[dict]] = None,
                         outputs: Optional[dict] = None) -> None:
        """Save what is due."""
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        if self.mid_epoch_interval and self.every_n_train_iters(
                runner, self.mid_epoch_interval):
            self._due = True
        if pending_gradients(runner):
            return
        if self._postponed is not None:
            step = self._postponed if self.by_epoch else runner.iter + 1
            self._write(runner, step,
                        dict(epoch=runner.epoch, iter=runner.iter + 1))
        elif self._due:
            self.save_mid_epoch(runner)
        self._due = False

    def after_train(self, runner) -> None:
        """Save what is still due, and publish."""
        if self._postponed is not None:  # a training that was stopped early
            self._write(runner, self._postponed,
                        dict(epoch=runner.epoch, iter=runner.iter))
        super().after_train(runner)

    def save_mid_epoch(self, runner) -> None:
        """Save after an iteration that no gradients are pending of.

        All processes call it.
        """
        step = runner.iter + 1
        if self._saved_iter == step:
            return
        runner.logger.info(f'Saving checkpoint at {step} iterations')
        runner.message_hub.update_info('removed_ckpt_id', None)
        self._save_file(runner, MID_EPOCH,
                        dict(epoch=runner.epoch, iter=step), False)
        self._saved_iter = step

    def _save_checkpoint_with_step(self, runner, step: int,
                                   meta: dict) -> None:
        """Save, or note that this must wait for the optimizer."""
        if pending_gradients(runner) and why_not_inside_epoch(runner) is None:
            self._postponed = step
            runner.logger.info('The checkpoint is written after the '
                               "optimizer's next step: gradients are pending.")
        else:
            self._write(runner, step, meta)

    def _write(self, runner, step: int, meta: dict) -> None:
        """Save as one of the checkpoints that are counted and kept."""
        self._postponed = None
        stale = None
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                stale = self.keep_ckpt_ids[0]
            self.keep_ckpt_ids.append(step)  # its length is limited
            runner.message_hub.update_info('keep_ckpt_ids',
                                           list(self.keep_ckpt_ids))
        runner.message_hub.update_info('removed_ckpt_id', stale)
        name = self.filename_tmpl.format(step)
        try:
            self._save_file(runner, name, meta, self.by_epoch)
        except CannotWrite as error:
            # Where weights are split, all processes would have to try again.
            if (error.errno not in NO_SPACE or stale is None
                    or self.max_keep_ckpts < 2
                    or not isinstance(runner, Runner)):
                raise
            runner.logger.warning(f'{error} Trying again without the oldest '
                                  'checkpoint, which would go now anyway.')
            self._remove_step(stale)
            self._save_file(runner, name, meta, self.by_epoch)
        self._remove_step(stale)
        self._saved_iter = meta['iter']
        self._remove(self.file_backend.join_path(self.out_dir, MID_EPOCH))

    def _save_file(self, runner, name: str, meta: dict,
                   by_epoch: bool) -> None:
        """Write a checkpoint, then what names it as the last."""
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=by_epoch,
            backend_args=self.backend_args,
            **self.args)
        if is_main_process():
            # In the encoding in which MMEngine reads it.
            write_run_file(
                osp.join(runner.work_dir, 'last_checkpoint'),
                self.last_ckpt.encode(locale.getpreferredencoding(False)))

    def _remove_step(self, step: Optional[int]) -> None:
        if step is not None:
            self._remove(
                self.file_backend.join_path(self.out_dir,
                                            self.filename_tmpl.format(step)))

    @master_only
    def _remove(self, path: str) -> None:
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):
            self.file_backend.rmtree(path)

    def _save_best_checkpoint(self, runner, metrics: dict) -> None:
        """Save the best, then remove the one that was it before."""
        if not self.save_best:
            return
        # Where mmengine keeps the paths: an attribute, or a dict for several.
        paths = getattr(self, 'best_ckpt_path_dict', None)
        names = self.key_indicators
        if paths is None:
            paths, names = vars(self), ['best_ckpt_path']
        before = {name: paths.get(name) for name in names}
        # It removes what these name, before it writes.
        paths.update(dict.fromkeys(names))
        super()._save_best_checkpoint(runner, metrics)
        for name, old in before.items():
            if paths[name] is None:
                paths[name] = old
            elif old not in (None, paths[name]):
                self._remove(old)

    @master_only
    def _publish_model(self, runner, ckpt_path: str) -> None:
        """mmengine's, but the file is whole or not there."""
        checkpoint = CheckpointLoader.load_checkpoint(
            ckpt_path, map_location='cpu')
        kept = {
            key: checkpoint[key]
            for key in checkpoint if key in self.published_keys
        }
        digest = hashlib.sha256(pickle.dumps(kept)).hexdigest()[:8]
        path = f'{osp.splitext(ckpt_path)[0]}-{digest}.pth'
        save_checkpoint(kept, path, backend_args=self.backend_args)
        runner.logger.info(
            f'The checkpoint ({ckpt_path}) is published to {path}, without '
            f'{sorted(checkpoint.keys() - kept.keys())}.')


def _intention(runner) -> dict:
    """What a runner was told about earlier runs, by a config or without."""
    return dict(
        resume=runner._resume,
        load_from=runner._load_from,
        overwrite=runner.cfg.get('overwrite'))
