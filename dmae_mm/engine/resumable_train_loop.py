from typing import Any

from mmengine.runner import EpochBasedTrainLoop
from mmpretrain.registry import LOOPS

from dmae_mm.options import reject_unknown_options

from .loaders import check_not_empty


@LOOPS.register_module()
@reject_unknown_options
class ResumableTrainLoop(EpochBasedTrainLoop):
    """mmengine's ``EpochBasedTrainLoop`` that resumes inside an epoch.

    It goes on behind the last batch of a checkpoint that was written inside
    an epoch; hooks see the numbers of epoch, iteration and batch that they
    would have seen without the interruption. ``ExactResumeHook`` tells it
    where.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader or dict): Training data.
        max_epochs (int): Number of epochs.
        val_begin (int): First epoch that is validated. Defaults to 1.
        val_interval (int): Epochs from one validation to the next. Defaults
            to 1.
        dynamic_intervals (list[tuple[int, int]], optional): First epochs of
            other intervals, and these. Defaults to None.

    Raises:
        ValueError: If the data loader gives no batch.
    """

    # Batches of the current epoch that were used before a resumption.
    batches_done = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Now: schedules that count batches are built next, and would fail.
        check_not_empty(self.dataloader, 'train_dataloader')

    def run_epoch(self) -> None:
        """Iterate over what is left of an epoch, usually all of it."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        done, self.batches_done = self.batches_done, 0
        if done:
            self.dataloader.sampler.skip(done * self.dataloader.batch_size)
        for idx, data_batch in enumerate(self.dataloader, start=done):
            self.run_iter(idx, data_batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
