"""What follows from a look at a folder of images."""
from typing import TYPE_CHECKING, Dict, List

import numpy as np

from .folders import listed_endings

if TYPE_CHECKING:
    from .image_survey import ImageSurvey

# Shorter side, as a part of the crop's, up to which an image is hardly larger.
HARDLY_LARGER = 1.25
# Megapixels from which on shrinking the images once is worth it, and those of
# an image of ImageNet.
LARGE, OF_IMAGENET = 2.0, 500 * 375 / 1e6
# Files that are slow to list, to copy and to read one by one.
MANY = 500_000
# Part of the images that may be broken: SkippedImagesHook's default.
MAX_BROKEN = 0.1
# Files that hold pictures which are not read as they are, and what to do.
HOW_TO_CONVERT = {
    ('.heic', '.heif', '.hif'):
    'convert them once to JPEG, with pillow-heif or "heif-convert -q 95"',
    ('.cr2', '.cr3', '.nef', '.dng', '.arw', '.orf', '.rw2', '.raf', '.pef',
     '.srw'):
    'develop these raw photographs once to JPEG, with rawpy or darktable-cli',
    ('.gif', '.avif', '.jp2', '.jxl', '.psd', '.tga', '.ico', '.dds'):
    'convert them once to PNG, with Pillow or ImageMagick',
    ('.jfif', '.jpe', '.jif'):
    'these are JPEG files: rename them to .jpg',
    ('.dcm', '.nii', '.npy', '.npz', '.mat', '.h5', '.hdf5', '.fits', '.exr',
     '.hdr'):
    'write these arrays once as TIFF or 16-bit PNG: docs/data.md, "More than '
    '8 bits"',
    ('.mp4', '.mov', '.avi', '.mkv', '.webm', '.m4v'):
    'take pictures out of these films once: ffmpeg -i FILM -vf fps=1 '
    'FOLDER/%06d.jpg',
    ('.zip', '.tar', '.gz', '.tgz', '.7z', '.rar', '.parquet', '.lmdb'):
    'unpack these archives; shards that make_shards.py wrote are read by '
    'ShardDataset: docs/shards.md',
}


def survey_consequences(survey: 'ImageSurvey', size: int) -> List[str]:
    """What a training should do about what was found, one line each."""
    return [
        *_about_size(survey, size),
        *_about_channels(survey),
        *_about_bits(survey),
        *_about_number(survey),
        *_about_broken(survey),
        *_about_duplicates(survey),
        *not_read(survey.ignored),
    ]


def not_read(ignored: Dict[str, int]) -> List[str]:
    """How files become images that are read, by their endings."""
    lines = []
    for endings, advice in HOW_TO_CONVERT.items():
        found = {
            ending: ignored[ending] for ending in endings
            if ignored.get(ending)
        }
        if found:
            lines.append(f'{listed_endings(found)}: {advice}.')
    return lines


def _about_size(survey: 'ImageSurvey', size: int) -> List[str]:
    shorter = int(np.median(np.minimum(survey.heights, survey.widths)))
    megapixels = float(np.median(survey.heights * (survey.widths / 1e6)))
    if shorter < size:
        return [
            f'Half of the images have a shorter side of {shorter} pixels or '
            f'less: crops are enlarged to {size}. A smaller --size shows as '
            'much and takes less time.'
        ]
    if shorter < HARDLY_LARGER * size:
        return [
            f'Half of the images have a shorter side of {shorter} pixels or '
            f'less, hardly more than the crop of {size}: small parts of them '
            'are enlarged. FastRandomResizedCrop(crop_ratio_range=(0.5, 1.0))'
            ' takes larger parts.'
        ]
    if megapixels >= LARGE:
        return [
            f'Half of the images have {megapixels:.1f} megapixels or more: '
            'one takes as long to decode as '
            f'{megapixels / OF_IMAGENET:.0f} of ImageNet\'s. Shrink them '
            'once: docs/data.md, "Large photographs".'
        ]
    return []


def _about_channels(survey: 'ImageSurvey') -> List[str]:
    images = sum(survey.modes.values())
    grey = sum(survey.modes[mode] for mode in ('L', '1', 'I;16', 'I;16B'))
    clear = sum(survey.modes[mode] for mode in ('RGBA', 'LA', 'PA'))
    lines = []
    if survey.channels != 3:
        lines.append(
            f'Images have {survey.channels} channels that are no colours: '
            f'LoadImageOrSkip(channels={survey.channels}), and what '
            'docs/data.md, "Other channels than three", says of the model.')
    elif grey == images:
        lines.append(
            'All images are grey: they become colour with three equal '
            'channels, as a teacher of colour images needs them.')
    elif grey:
        lines.append(f'{grey:,} of {images:,} images are grey and become '
                     'colour with three equal channels.')
    if clear:
        lines.append(
            f'{clear:,} of {images:,} images may be transparent: '
            'transparency is left out, and what it hides is seen.')
    return lines


def _about_bits(survey: 'ImageSurvey') -> List[str]:
    deep = survey.bit_depths[16]
    if survey.value_range is not None:
        return [
            f'Images have 16 bits a value, of which the largest uses '
            f'{survey.value_range[1].bit_length()}: LoadImageOrSkip('
            f'value_range={survey.value_range}) keeps their levels; without '
            'it, the upper 8 of 16 bits remain.'
        ]
    if deep and survey.bit_depths[8]:
        return [
            f'{deep:,} of {sum(survey.bit_depths.values()):,} images have 16 '
            'bits a value, the others 8: of 16, the upper 8 remain. A '
            'value_range of LoadImageOrSkip would hold for all alike.'
        ]
    if deep:
        return [
            'Images have 16 bits a value, of which the upper 8 remain: give '
            'LoadImageOrSkip(value_range=(LOW, HIGH)) if other values are to '
            'become 0 and 255.'
        ]
    return []


def _about_number(survey: 'ImageSurvey') -> List[str]:
    if survey.num_images < MANY:
        return []
    return [
        f'{survey.num_images:,} files are slow to list, to copy and to read '
        'one by one. Shards are faster: python '
        f'tools/dataset_converters/make_shards.py {survey.root} SHARDS, and '
        'docs/shards.md.'
    ]


def _about_broken(survey: 'ImageSurvey') -> List[str]:
    broken = len(survey.broken)
    if not broken:
        return []
    found = (f'{broken:,} of {survey.sampled:,} images opened cannot be used'
             f' ({broken / survey.sampled:.1%})')
    if broken > MAX_BROKEN * survey.sampled:
        return [
            f'{found}, more than the {MAX_BROKEN:.0%} at which '
            'SkippedImagesHook ends a training: repair or remove them, or '
            'raise its max_fraction.'
        ]
    return [
        f'{found}: SkippedImagesHook skips such files and names them; '
        'without it, the first ends the training.'
    ]


def _about_duplicates(survey: 'ImageSurvey') -> List[str]:
    if not survey.duplicates:
        return []
    images = sum(map(len, survey.duplicates))
    return [
        f'{images:,} of {survey.sampled:,} images opened show pictures that '
        'others show, too: these count more than once. Whether labelled '
        'images for evaluation are among the training images is not looked '
        'at; if they are, their figures are too good.'
    ]
