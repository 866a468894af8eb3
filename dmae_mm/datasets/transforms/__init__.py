from .fast_random_resized_crop import FastRandomResizedCrop
from .load_image_or_skip import BadImageError, LoadImageOrSkip
from .seed_sample import SeedSample

__all__ = [
    'BadImageError', 'FastRandomResizedCrop', 'LoadImageOrSkip', 'SeedSample'
]
