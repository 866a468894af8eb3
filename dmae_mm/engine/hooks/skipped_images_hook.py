from typing import Dict, Optional

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS

from dmae_mm.datasets.pipelines import let_skip
from dmae_mm.messages import first_few
from dmae_mm.options import is_finite_number, reject_unknown_options

STATE = 'skipped_images'


class TooManyBadImagesError(RuntimeError):
    """More images than allowed cannot be used."""


@HOOKS.register_module()
@reject_unknown_options
class SkippedImagesHook(Hook):
    """Lets a training skip broken images, names and counts them.

    It tells the pipeline's ``LoadImageOrSkip`` to skip, reads from the
    batches which files were, and names each of them once in the log, with
    the reason. When they are too large a part of the data set, the training
    ends with an error.

    The processes exchange names every ``interval`` iterations and after each
    epoch, all at the same iteration, and so come to the same decision at the
    same time. The names found so far are stored in checkpoints, and the
    number of them is logged as ``skipped_images``.

    ``PackInputs`` has to pass the names on: ``meta_keys`` with
    ``'skipped_images'``.

    Args:
        max_fraction (float): Different broken files, as a part of the whole
            data set, from 0 (the first one is an error) to 1. Defaults to
            0.1: a few in a hundred are usual in large collections and do no
            harm, more is a sign of a broken copy or of a wrong folder.
        interval (int): Iterations between two exchanges. Defaults to 100.

    Raises:
        ValueError: If an option is not legal, or, before the training
            starts, if ``PackInputs`` does not pass the names on.
        TooManyBadImagesError: During the training, in all processes.
    """

    def __init__(self, max_fraction: float = 0.1, interval: int = 100) -> None:
        if not is_finite_number(max_fraction) or not 0 <= max_fraction <= 1:
            raise ValueError(f'SkippedImagesHook: max_fraction='
                             f'{max_fraction!r} is not a number from 0 to 1.')
        if type(interval) is not int or interval < 1:
            raise ValueError(f'SkippedImagesHook: interval={interval!r} is '
                             'not an int of at least 1.')
        self.max_fraction, self.interval = max_fraction, interval
        self._new: Dict[str, str] = {}  # of this process, not yet exchanged
        self._known: Dict[str, str] = {}  # of all processes

    def before_train(self, runner) -> None:
        """Let the pipeline skip, and go on counting in a resumed run."""
        for transforms in let_skip(runner.train_dataloader.dataset):
            _check_packing(transforms)
        self._known = dict(runner.message_hub.runtime_info.get(STATE, {}))

    def after_train_iter(self,
                         runner,
                         batch_idx: int,
                         data_batch: Optional[dict] = None,
                         outputs: Optional[dict] = None) -> None:
        """Collect the names, and exchange them now and then."""
        for sample in (data_batch or {}).get('data_samples') or []:
            for path, reason in sample.metainfo.get('skipped_images', []):
                if path not in self._known:
                    self._new[path] = reason
        if self.every_n_train_iters(runner, self.interval):
            self._exchange(runner)

    def after_train_epoch(self, runner) -> None:
        """Exchange what came after the last exchange."""
        self._exchange(runner)

    def after_train(self, runner) -> None:
        """Say how many they were."""
        self._exchange(runner)
        if self._known:
            runner.logger.warning(
                f'{self._share(runner)} could not be used; others were drawn '
                'in their place. Each is named above, or in the log of the '
                'run that was resumed.')

    def _exchange(self, runner) -> None:
        count = torch.tensor(len(self._new))
        all_reduce(count)
        if not count:
            return
        found: Dict[str, str] = {}
        for part in all_gather_object(self._new):
            found.update(part)
        self._new = {}
        for path, reason in found.items():
            if path not in self._known:
                self._known[path] = reason
                runner.logger.warning(f'Skipped {path!r}: {reason}.')
        runner.message_hub.update_info(STATE, dict(self._known))
        runner.message_hub.update_scalar('train/skipped_images',
                                         len(self._known))
        self._check(runner)

    def _check(self, runner) -> None:
        total = len(runner.train_dataloader.dataset)
        if len(self._known) <= self.max_fraction * total:
            return
        listed = first_few([
            f'{path!r} ({reason})' for path, reason in self._known.items()])
        raise TooManyBadImagesError(
            f'{self._share(runner)} cannot be used, more than max_fraction='
            f'{self.max_fraction}: {listed}. All are named in the log. '
            'Repair or remove them, or set a larger max_fraction in '
            "dict(type='SkippedImagesHook', max_fraction=...).")

    def _share(self, runner) -> str:
        total = len(runner.train_dataloader.dataset)
        bad = len(self._known)
        return f'{bad} of {total} images ({100 * bad / total:.2g}%)'


def _check_packing(transforms: list) -> None:
    keys = getattr(transforms[-1], 'meta_keys', ())
    if 'skipped_images' not in keys:
        raise ValueError(
            'SkippedImagesHook would not see which images LoadImageOrSkip '
            f'skips: the pipeline ends with {transforms[-1]!r}. Let it end '
            "with dict(type='PackInputs', meta_keys=('img_path', "
            "'sample_idx', 'skipped_images')).")
