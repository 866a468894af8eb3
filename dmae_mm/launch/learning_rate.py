"""The learning rate for the images of an optimizer step: --auto-scale-lr."""
from typing import List

from mmengine.config import Config

from dmae_mm.engine.images_per_step import ImagesPerStep

from .processes import is_first_process, number_of_processes


def scale_learning_rate(cfg: Config) -> List[str]:
    """Write the learning rate in proportion to the images of a step.

    ``optim_wrapper.optimizer.lr`` becomes lr x images / base_batch_size, with
    the images of an optimizer step: batch size x processes x accumulated
    batches. ``auto_scale_lr`` then has these images and is switched off, so
    that neither MMEngine nor a run of the written config scales again.

    Args:
        cfg (Config): Is changed, unless something is wrong.

    Returns:
        list[str]: What is wrong.
    """
    images = ImagesPerStep(cfg, number_of_processes(cfg.get('launcher')))
    rate = images.proportional_rate
    if images.meant is None:
        return ['--auto-scale-lr needs auto_scale_lr='
                'dict(base_batch_size=...) in the config: the images of an '
                'optimizer step that its learning rate is meant for']
    if rate is None:
        missing = 'train_dataloader.batch_size' if images.total is None else (
            'optim_wrapper.optimizer.lr')
        return [f'--auto-scale-lr needs a number as {missing}: give it']
    if is_first_process(cfg.get('launcher')):
        print(f'Learning rate: {images.rate:g} for {images.meant:g} images '
              f'per optimizer step becomes {rate:.6g} for {images}.')
    cfg.optim_wrapper.optimizer.lr = rate
    cfg.auto_scale_lr.update(base_batch_size=images.total, enable=False)
    return []
