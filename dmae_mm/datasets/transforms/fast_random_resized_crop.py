from typing import Sequence, Tuple, Union

import numpy as np
import torch
import torch.nn.functional as F
from mmpretrain.datasets.transforms import RandomResizedCrop
from mmpretrain.registry import TRANSFORMS

from dmae_mm.options import is_finite_number, reject_unknown_options

INTERPOLATIONS = ('bilinear', 'bicubic')


@TRANSFORMS.register_module()
@reject_unknown_options
class FastRandomResizedCrop(RandomResizedCrop):
    """mmpretrain's ``RandomResizedCrop`` and ``RandomFlip``, but faster.

    Equal seeds give the crops and flips that the host's two transforms give.
    They are resized by PyTorch, whose antialiased filters on 8 bits are
    pillow's (``backend='pillow'``) up to rounding and take a third of the
    time or less. The result lies in memory as the model wants it, channel by
    channel, so that ``PackInputs`` has nothing to reorder.

    Required key: ``img`` (H x W x C, or H x W, uint8). Changed keys: ``img``
    (height x width x C), ``img_shape``. Added key, if ``flip_prob`` is not 0:
    ``flip``.

    Args:
        scale (int | Sequence[int]): Size of the result, (height, width) or
            one number for a square.
        crop_ratio_range (tuple[float, float]): Area of the crop, as a part of
            the image. Defaults to (0.08, 1.0).
        aspect_ratio_range (tuple[float, float]): Width over height of the
            crop. Defaults to (3 / 4, 4 / 3).
        max_attempts (int): Draws of a crop before the central one is taken.
            Defaults to 10.
        interpolation (str): 'bilinear' or 'bicubic', both antialiased.
            Defaults to 'bicubic'.
        flip_prob (float): Probability of a horizontal flip, from 0, which
            draws nothing, to 1. Defaults to 0.

    Raises:
        ValueError: If ``interpolation``, ``flip_prob`` or a range is not
            legal.
    """

    def __init__(self,
                 scale: Union[int, Sequence[int]],
                 crop_ratio_range: Tuple[float, float] = (0.08, 1.0),
                 aspect_ratio_range: Tuple[float, float] = (3 / 4, 4 / 3),
                 max_attempts: int = 10,
                 interpolation: str = 'bicubic',
                 flip_prob: float = 0.) -> None:
        if interpolation not in INTERPOLATIONS:
            raise ValueError(
                f'FastRandomResizedCrop: interpolation={interpolation!r} is '
                f'not one of {", ".join(map(repr, INTERPOLATIONS))}. Others '
                'are in RandomResizedCrop.')
        if not is_finite_number(flip_prob) or not 0 <= flip_prob <= 1:
            raise ValueError(f'FastRandomResizedCrop: flip_prob={flip_prob!r} '
                             'is not a number from 0 to 1.')
        self.flip_prob = flip_prob
        super().__init__(
            scale,
            crop_ratio_range,
            aspect_ratio_range,
            max_attempts,
            interpolation=interpolation,
            backend='pillow')

    def transform(self, results: dict) -> dict:
        """Crop, resize and perhaps flip.

        Args:
            results (dict): The sample.

        Returns:
            dict: The sample with its crop.
        """
        image = np.atleast_3d(results['img'])
        top, left, height, width = self.rand_crop_params(image)
        crop = image[top:top + height, left:left + width]
        # PyTorch takes no negative strides; otherwise as fast with the copy.
        crop = torch.from_numpy(np.ascontiguousarray(crop))
        crop = F.interpolate(
            crop.permute(2, 0, 1)[None],  # 1 x C x height x width
            size=tuple(self.scale),
            mode=self.interpolation,
            antialias=True)[0]
        if self.flip_prob:
            # What RandomFlip's numpy.random.choice draws, in less time.
            results['flip'] = bool(np.random.random_sample() < self.flip_prob)
            if results['flip']:
                crop = crop.flip(-1)
        results['img'] = crop.permute(1, 2, 0).numpy()  # a view
        results['img_shape'] = results['img'].shape
        return results

    def __repr__(self) -> str:
        return f'{super().__repr__()[:-1]}, flip_prob={self.flip_prob})'
