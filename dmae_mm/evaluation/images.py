"""The one way in which images are found, read and cropped for evaluation.

Nothing here is random.
"""
import functools
import sys
from typing import Iterable, List, Optional, Sequence, Tuple

import numpy as np
import torch
import torch.nn as nn
from mmengine.dataset import BaseDataset, Compose, default_collate
from mmengine.registry import DefaultScope
from mmpretrain.datasets import CustomDataset
from rich.progress import track
from torch.utils.data import DataLoader, Subset

from dmae_mm.datasets import (BadImageError, ImageSubset, LoadImageOrSkip,
                              read_class_folders)
from dmae_mm.messages import first_few, one_line
from dmae_mm.models.student_input import input_channels

# For backbones that take images of any size, such as ResNet.
DEFAULT_IMG_SIZE = 224


def image_size(backbone: nn.Module) -> int:
    """Height and width of the images that a backbone is made for.

    Args:
        backbone (nn.Module): A backbone of mmpretrain.

    Returns:
        int: In pixels; 224 for one that takes any size.

    Raises:
        ValueError: If they are not square.
    """
    holder = backbone if hasattr(backbone, 'img_size') else getattr(
        backbone, 'patch_embed', None)  # HiViT and Swin keep it there
    size = getattr(holder, 'img_size',
                   getattr(holder, 'init_input_size', None))
    if size is None and hasattr(backbone, 'timm_model'):
        size = _timm_image_size(backbone.timm_model)
    size = DEFAULT_IMG_SIZE if size is None else size
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise ValueError(f'The model is made for images of {height} x {width} '
                         'pixels. Only square ones can be evaluated.')
    return height


def _timm_image_size(model: nn.Module) -> Optional[Tuple[int, int]]:
    """What a model of timm takes, if it takes one size only."""
    for module in model.modules():  # the whole may be wrapped
        size = getattr(getattr(module, 'patch_embed', None), 'img_size', None)
        if size is not None:
            return tuple(size)
    known = getattr(model, 'pretrained_cfg', None) or {}
    return known.get('input_size', (None, None))[1:] if known.get(
        'fixed_input_size') else None


class EvaluationPipeline:
    """Reads an image as a model sees it at test time.

    The shorter side becomes ``round(img_size / crop_pct)`` pixels, bicubic,
    and of that the centre is cut out, as in timm and in mmpretrain's test
    pipelines. An image that has this size already is not changed. What the
    training refuses is refused here, for the same reason.

    It is the whole pipeline of a data set: it takes mmpretrain's description
    of a sample (``img_path``, and the content of the file in ``img_bytes``
    where it has been read) and returns its format, with ``inputs`` (C, H, W),
    uint8, in the training's order of channels.

    Args:
        img_size (int): Height and width that the model gets, in pixels.
        crop_pct (float): Part of the shorter side that the crop keeps, above
            0 and up to 1. Defaults to 0.875, at 224 px a resize to 256.
        channels (int): Of the images: see :class:`LoadImageOrSkip`. Defaults
            to 3.
        like (LoadImageOrSkip, optional): What decodes the images of the
            training: its other options, such as ``value_range``, hold here
            as well. Defaults to None: its default options.

    Raises:
        ValueError: If an option has no legal value.
        FileNotFoundError: When it is called, if there is no such file.
        BadImageError: When it is called, if the file cannot be used. Its text
            names the file and the reason.
    """

    def __init__(self,
                 img_size: int,
                 crop_pct: float = 0.875,
                 channels: int = 3,
                 like: Optional[LoadImageOrSkip] = None) -> None:
        if not 0 < crop_pct <= 1:
            raise ValueError(
                f'crop_pct={crop_pct} is not above 0 and up to 1.')
        like = like or LoadImageOrSkip()
        self.img_size, self.crop_pct = img_size, crop_pct
        self.loader = LoadImageOrSkip(like.max_pixels, channels,
                                      like.value_range)
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            self._crop = Compose([
                dict(
                    type='ResizeEdge',
                    scale=round(img_size / crop_pct),
                    backend='pillow',
                    interpolation='bicubic'),
                dict(type='CenterCrop', crop_size=img_size)
            ])
            self._pack = Compose([dict(type='PackInputs')])

    @classmethod
    def of(cls,
           backbone: nn.Module,
           crop_pct: float = 0.875,
           like: Optional[LoadImageOrSkip] = None,
           img_size: Optional[int] = None) -> 'EvaluationPipeline':
        """That of a backbone: its channels and, if none is given, its
        size."""
        return cls(
            image_size(backbone) if img_size is None else img_size, crop_pct,
            input_channels(backbone), like)

    def __call__(self, sample: dict) -> dict:
        path = sample['img_path']
        try:
            image = _decode(self.loader, path, sample.get('img_bytes'))
        except BadImageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise FileNotFoundError(
                    f'There is no image {path!r}.') from None
            raise BadImageError(f'The image {path!r} cannot be decoded: '
                                f'{error}. Replace or remove it.') from None
        size = image.shape[:2]
        # Of 2 or 4 channels, Pillow would take the last for transparency.
        parts = [image] if self.loader.channels in (1, 3) else np.moveaxis(
            image, -1, 0)
        parts = [
            self._crop(dict(img=np.ascontiguousarray(part), img_shape=size))
            for part in parts
        ]
        return self._pack(
            dict(
                sample,
                img=np.dstack([part['img'] for part in parts]),
                img_shape=parts[0]['img_shape'],
                ori_shape=size))

    def read(self, paths: Sequence[str]) -> dict:
        """A batch of files, by their paths."""
        return default_collate([self(dict(img_path=path)) for path in paths])

    def __repr__(self) -> str:  # of all that the pixels depend on
        return (f'{type(self).__name__}({self.img_size}, {self.crop_pct}, '
                f'{self.loader})')


def _decode(loader: LoadImageOrSkip,
            path: str,
            content: Optional[bytes] = None) -> np.ndarray:
    """Pixels of a file, or a :class:`BadImageError` with the reason."""
    try:
        return loader.load(path, content)
    except BadImageError:
        raise
    except Exception as error:  # of many kinds, from many decoders
        raise BadImageError(one_line(error)) from error


def _problem(loader: LoadImageOrSkip, path: str) -> Optional[str]:
    try:
        _decode(loader, path)
    except BadImageError as error:
        return str(error)


def problems(paths: Sequence[str],
             num_workers: int = 0,
             loader: Optional[LoadImageOrSkip] = None
             ) -> Iterable[Optional[str]]:
    """Why the training would refuse each file; None where it would not.

    Args:
        paths (Sequence[str]): The files. They are decoded.
        num_workers (int): Processes that read. Defaults to 0, this one.
        loader (LoadImageOrSkip, optional): Decodes them. Defaults to None:
            one with the default options.

    Returns:
        Iterable[str | None]: The reasons, in the order of the files.
    """
    return DataLoader(
        paths,
        batch_size=None,
        # Of each path.
        collate_fn=functools.partial(_problem, loader or LoadImageOrSkip()),
        num_workers=num_workers,
        generator=torch.Generator())  # no number is drawn from the default


def check_readable(paths: Sequence[str],
                   num_workers: int = 0,
                   title: str = '',
                   loader: Optional[LoadImageOrSkip] = None) -> None:
    """Refuse files that cannot be used, before the work is begun.

    Args:
        paths (Sequence[str]): The files. They are decoded.
        num_workers (int): Processes that read. Defaults to 0, this one.
        title (str): What a terminal shows beside the progress. Defaults to
            '': no progress is shown.
        loader (LoadImageOrSkip, optional): See :func:`problems`.

    Raises:
        ValueError: If there are some. The first are named, with the reasons.
    """
    found = with_progress(problems(paths, num_workers, loader), title)
    broken = [
        f'{path!r} ({problem})' for problem, path in zip(found, paths)
        if problem is not None
    ]
    if broken:
        raise ValueError(
            f'{len(broken)} of {len(paths)} files cannot be decoded as '
            f'images: {first_few(broken)}. Replace or remove them.')


def with_progress(items: Iterable, title: str) -> Iterable:
    """Show in a terminal how far it is; '' shows nothing."""
    return track(
        items,
        description=title,
        disable=not title or not sys.stdout.isatty())


def paths_of(dataset: BaseDataset) -> List[str]:
    """Paths of a data set's images, in its order."""
    return [
        dataset.get_data_info(index)['img_path']
        for index in range(len(dataset))
    ]


def labelled_images(root: str,
                    pipeline: EvaluationPipeline,
                    list_file: Optional[str] = None) -> CustomDataset:
    """Labelled images as a data set of mmpretrain.

    Args:
        root (str): Folder with one sub-folder a class.
        pipeline (EvaluationPipeline): Reads them.
        list_file (str, optional): Take only those that this list of
            ``tools/make_subset.py`` names. Defaults to None.

    Returns:
        CustomDataset: The data set.

    Raises:
        FileNotFoundError: If folder or list do not exist.
        ValueError: If the images have no labels, or the list does not fit the
            folder.
    """
    if list_file is None:
        return read_class_folders(root, [pipeline])
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return ImageSubset(list_file, data_prefix=root, pipeline=[pipeline])


def batches(dataset: BaseDataset,
            batch_size: int = 128,
            num_workers: int = 0,
            part: Tuple[int, int] = (0, 1)) -> DataLoader:
    """Batches in mmpretrain's format, in the order of the data set.

    Args:
        dataset (BaseDataset): The images.
        batch_size (int): Images of a batch. Defaults to 128.
        num_workers (int): Processes that read images. Defaults to 0, which
            reads them in this process.
        part (tuple[int, int]): (i, n) takes every n-th image from the i-th
            on; the first image, where that would be none. Defaults to (0,
            1), all.

    Returns:
        DataLoader: The batches.
    """
    indices = range(len(dataset))[part[0]::part[1]] or [0]
    return DataLoader(
        Subset(dataset, indices),
        batch_size,
        num_workers=num_workers,
        collate_fn=default_collate,
        generator=torch.Generator())  # no number is drawn from the default


def evenly_spread(count: int, wanted: int) -> Sequence[int]:
    """Indices of ``wanted`` things of ``count``, or of all if they are fewer.

    In folders of classes, the first few would be of one class.
    """
    wanted = min(count, wanted)
    return [index * count // wanted for index in range(wanted)]
