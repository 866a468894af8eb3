from typing import Optional

from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS

from dmae_mm.options import reject_unknown_options

from ..loaders import check_loaders
from ..resumed_options import ResumedOptions


@HOOKS.register_module()
@reject_unknown_options
class FollowConfigHook(Hook):
    """What a run does is what its config says, also after a resumption.

    MMEngine loads optimizer and schedules over what the config says. Here a
    longer schedule, another learning rate or another weight decay is applied
    from the resumption on; what cannot be is refused, with both values. A
    data loader that gives no batch is refused as well.

    ``ExactResumeHook`` is one, ``AtomicCheckpointHook`` does the same if
    there is none, and ``tools/train.py`` adds one where both are missing.
    """

    priority = 'VERY_HIGH'

    _resumed: Optional[ResumedOptions] = None

    def before_run(self, runner) -> None:
        """Look at the data loaders.

        Raises:
            ValueError: If one gives no batch.
        """
        check_loaders(runner)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Compare, before the checkpoint's state is loaded.

        Raises:
            ValueError: If something differs that cannot be applied.
        """
        if runner._resume:
            self._resumed = ResumedOptions(runner, checkpoint)

    def before_train(self, runner) -> None:
        """Apply what differs.

        Raises:
            ValueError: If it cannot be applied.
        """
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            resumed.apply(runner)
