import contextlib
import io

with contextlib.redirect_stdout(io.StringIO()):
    # It prints that an optional package, OneDL, is not installed.
    import mmpretrain.datasets  # noqa: F401

from .balanced_subset import (balanced_subset, class_images,  # noqa: E402
                              write_list)
from .folders import EXTENSIONS, read_class_folders  # noqa: E402
from .image_subset import ImageSubset  # noqa: E402
from .image_survey import ImageSurvey, survey_images  # noqa: E402
from .seeded_sampler import SeededSampler  # noqa: E402
from .seeds import SeededIndex  # noqa: E402
from .shards import ShardDataset, ShardSampler  # noqa: E402
from .spread_images import SpreadImages  # noqa: E402
from .transforms import (BadImageError, FastRandomResizedCrop,  # noqa: E402
                         LoadImageOrSkip, SeedSample)

__all__ = [
    'BadImageError', 'EXTENSIONS', 'FastRandomResizedCrop', 'ImageSubset',
    'ImageSurvey', 'LoadImageOrSkip', 'SeedSample', 'SeededIndex',
    'SeededSampler', 'ShardDataset', 'ShardSampler', 'SpreadImages',
    'balanced_subset', 'class_images', 'read_class_folders', 'survey_images',
    'write_list'
]
