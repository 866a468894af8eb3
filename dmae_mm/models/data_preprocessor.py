from typing import Any, Optional, Sequence

import torch
from mmpretrain.models.utils import SelfSupDataPreprocessor
from mmpretrain.registry import MODELS

from dmae_mm.options import is_finite_number


@MODELS.register_module()
class ChannelsDataPreprocessor(SelfSupDataPreprocessor):
    """mmpretrain's ``SelfSupDataPreprocessor`` for any number of channels.

    :class:`DMAE` takes it wherever a config says
    ``type='SelfSupDataPreprocessor'``.

    Args:
        mean (Sequence[float], optional): Of each channel, or one for all.
            Defaults to None: images are not normalised.
        std (Sequence[float], optional): Likewise.
        **options: As of ``SelfSupDataPreprocessor``.

    Attributes:
        in_channels (int, optional): Channels that images must have. None
            until a model says so.

    Raises:
        ValueError: If ``mean`` or ``std`` is no list of finite numbers, only
            one of them is given, or they have different lengths; when it is
            called, if images have another number of channels.
    """
    in_channels: Optional[int] = None

    def __init__(self,
                 mean: Optional[Sequence[float]] = None,
                 std: Optional[Sequence[float]] = None,
                 **options: Any) -> None:
        for name, values in (('mean', mean), ('std', std)):
            if values is not None and not (
                    isinstance(values, (list, tuple)) and values
                    and all(map(is_finite_number, values))):
                raise ValueError(
                    f'data_preprocessor: {name}={values!r} is not a list of '
                    'finite numbers, one for each channel or one for all.')
        lengths = [None if values is None else len(values)
                   for values in (mean, std)]
        if lengths[0] != lengths[1]:
            raise ValueError(
                f'data_preprocessor: mean={mean!r} and std={std!r} must have '
                'the same number of values, or both be None.')
        # It refuses all lengths but 1 and 3.
        super().__init__(None if mean is None else [0.],
                         None if std is None else [1.], **options)
        if mean is not None:
            self.mean, self.std = (
                torch.tensor(values).view(-1, 1, 1) for values in (mean, std))

    def forward(self, data: dict, training: bool = False) -> dict:
        """Normalise a batch.

        Args:
            data (dict): As of ``SelfSupDataPreprocessor``.
            training (bool): Likewise.

        Returns:
            dict: Likewise.
        """
        images = data['inputs'] if isinstance(data, dict) else None
        if self.in_channels is not None and isinstance(images, torch.Tensor):
            if images.shape[1] != self.in_channels:
                raise ValueError(
                    f'The images have {images.shape[1]} channels, but the '
                    f'model takes {self.in_channels}. Read them by '
                    f"dict(type='LoadImageOrSkip', channels="
                    f'{self.in_channels}) in the pipeline, or set the '
                    "channels of backbone, neck and head to the images'.")
        return super().forward(data, training)


def with_any_channels(data_preprocessor: Any) -> Any:
    """The config of a data preprocessor, for any number of channels.

    Args:
        data_preprocessor: What a self-supervised model is given.

    Returns:
        Any: With :class:`ChannelsDataPreprocessor` in the place of
        mmpretrain's default; anything else as it is.
    """
    default = SelfSupDataPreprocessor.__name__
    cfg = {} if data_preprocessor is None else data_preprocessor
    if isinstance(cfg, dict) and cfg.get('type', default) in (
            default, f'mmpretrain.{default}', SelfSupDataPreprocessor):
        return dict(cfg, type=ChannelsDataPreprocessor)
    return data_preprocessor
