"""How many images an optimizer step has, and the learning rate for them."""
from typing import List, Optional

from mmengine.config import Config

from dmae_mm.options import is_finite_number


class ImagesPerStep:
    """Images of an optimizer step, of all processes and accumulated batches.

    ``auto_scale_lr.base_batch_size`` of a config is such a number: the one
    that its learning rate is meant for. MMEngine compares it with the images
    of one iteration, and so is right only where nothing is accumulated.

    Args:
        cfg (Config): Of the training.
        processes (int): How many train together.

    Attributes:
        total (int, optional): The images. None if the config does not say.
        meant (float, optional): ``base_batch_size``. None if there is none.
        accumulated (int): Batches that make an optimizer step.
        rate (float, optional): ``optim_wrapper.optimizer.lr``. None if it is
            no number.
    """

    def __init__(self, cfg: Config, processes: int) -> None:
        wrapper = cfg.get('optim_wrapper')
        wrapper = wrapper if isinstance(wrapper, dict) else {}
        optimizer = wrapper.get('optimizer')
        loader = cfg.get('train_dataloader')
        loader = loader if isinstance(loader, dict) else {}
        scaling = cfg.get('auto_scale_lr') or {}
        self.accumulated = wrapper.get('accumulative_counts', 1)
        self.meant = _number(scaling, 'base_batch_size')
        self.rate = _number(optimizer, 'lr')
        batch = loader.get('batch_size')
        known = all(type(value) is int and value > 0
                    for value in (batch, self.accumulated))
        self.total = batch * processes * self.accumulated if known else None
        self._shown = (f'{batch} x {processes} '
                       f'process{"es" * (processes != 1)} x '
                       f'{self.accumulated} accumulated')

    @property
    def proportional_rate(self) -> Optional[float]:
        """``rate * total / meant``; None if one of them is not known."""
        if None in (self.total, self.meant, self.rate):
            return None
        return self.rate * (self.total / self.meant)

    def __str__(self) -> str:
        """'512 (128 x 1 process x 4 accumulated)'."""
        return f'{self.total} ({self._shown})'


def learning_rate_notes(cfg: Config, processes: int) -> List[str]:
    """Say if the images of an optimizer step are not those of the config.

    Args:
        cfg (Config): Of the training.
        processes (int): How many train together.

    Returns:
        list[str]: A note with both numbers and the learning rate in
        proportion, or none.

    Raises:
        ValueError: If MMEngine has scaled the learning rate to the images of
            an iteration, although several make an optimizer step.
    """
    images = ImagesPerStep(cfg, processes)
    rate = images.proportional_rate
    if rate is None:
        return []
    if cfg.auto_scale_lr.get('enable'):
        if images.accumulated == 1:
            return []  # MMEngine has scaled it rightly
        raise ValueError(
            'auto_scale_lr: MMEngine scales the learning rate to batch_size '
            'x processes and leaves out that accumulative_counts='
            f'{images.accumulated} batches make an optimizer step. Train with '
            'tools/train.py of dmae_mm, which counts them, or set '
            f'auto_scale_lr.enable=False and optim_wrapper.optimizer.lr='
            f'{rate:.6g}, which is in proportion to {images} images.')
    if images.total == images.meant:
        return []
    return [
        f'the learning rate of {images.rate:g} is meant for '
        f'{images.meant:g} images per optimizer step, here are {images}, for '
        f'which {rate:.4g} is in proportion: --auto-scale-lr takes it. If '
        f'{images.rate:g} was chosen for {images.total}, say so by '
        f'auto_scale_lr.base_batch_size={images.total}'
    ]


def _number(section: Optional[dict], key: str) -> Optional[float]:
    """A number above 0, or None."""
    value = section.get(key) if isinstance(section, dict) else None
    return value if is_finite_number(value) and value > 0 else None
