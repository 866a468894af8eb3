from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS

from dmae_mm.options import reject_unknown_options

from ..images_per_step import learning_rate_notes
from ..schedule_notes import schedule_notes


@HOOKS.register_module()
@reject_unknown_options
class LearningRateHook(Hook):
    """Says before the first step if the learning rate does not fit the run.

    One line each, for images per optimizer step other than those in
    ``auto_scale_lr.base_batch_size``, and for a schedule that does not end
    with the training. ``tools/train.py`` adds this hook to every run.
    """

    priority = 'VERY_LOW'

    def before_train(self, runner) -> None:
        """Say it.

        Raises:
            ValueError: If the learning rate was scaled to the images of an
                iteration, although several make an optimizer step.
        """
        for note in (*learning_rate_notes(runner.cfg, get_world_size()),
                     *schedule_notes(runner)):
            runner.logger.warning(f'Note: {note}')
