"""Images without labels, prepared as at test time."""
import contextlib
import os.path as osp
from typing import Iterator, List, Optional, Sequence, Tuple

import torch
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from mmpretrain.datasets import CustomDataset
from torch.utils.data import DataLoader, Dataset

from dmae_mm.datasets import BadImageError, LoadImageOrSkip
from dmae_mm.datasets.class_folders import EXTENSIONS


def list_images(folder: str) -> List[str]:
    """Paths of all images under a folder, sub-folders included, sorted.

    Args:
        folder (str): The folder.

    Returns:
        list[str]: The paths.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If there are no images in it.
    """
    if not osp.isdir(folder):
        raise FileNotFoundError(f'There is no folder {folder!r}.')
    try:
        dataset = CustomDataset(
            data_root=folder, with_label=False, extensions=EXTENSIONS)
    except RuntimeError:  # not one image
        raise ValueError(f'There are no images ({", ".join(EXTENSIONS)}) '
                         f'under {folder!r}.') from None
    return sorted(
        dataset.get_data_info(i)['img_path'] for i in range(len(dataset)))


def spread(count: int, wanted: int) -> Sequence[int]:
    """Indices of a few things, evenly spread over all.

    In folders of classes, the first few would be of one class.

    Args:
        count (int): How many there are.
        wanted (int): How many are wanted; all, if there are fewer.

    Returns:
        Sequence[int]: The indices, in their order.
    """
    wanted = min(count, wanted)
    return [index * count // wanted for index in range(wanted)]


def central_pipeline(img_size: int, crop_pct: float, channels: int) -> Compose:
    """Read an image, and resize and crop it without anything random.

    The shorter side becomes ``round(img_size / crop_pct)`` pixels, bicubic,
    and of that the centre is cut out: see :func:`labelled_images`.

    Args:
        img_size (int): Height and width that the model gets, in pixels.
        crop_pct (float): Part of the shorter side that the crop keeps, above
            0 and up to 1.
        channels (int): 3, or 1 for grey images.

    Returns:
        Compose: From mmpretrain's description of a sample (``img_path``, or
        the whole file in ``img_bytes``) to its format: (C, H, W), uint8, BGR.

    Raises:
        ValueError: If an option has no legal value.
    """
    if not 0 < crop_pct <= 1:
        raise ValueError(f'crop_pct={crop_pct} is not above 0 and up to 1.')
    if channels not in (1, 3):
        raise ValueError(
            f'The model takes images of {channels} channels. Image files are '
            'read with 3 channels, or with 1 as grey images.')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return Compose([
            _Decode('color' if channels == 3 else 'grayscale'),
            dict(
                type='ResizeEdge',
                scale=round(img_size / crop_pct),
                backend='pillow',
                interpolation='bicubic'),
            dict(type='CenterCrop', crop_size=img_size),
            dict(type='PackInputs')
        ])


class _Decode:
    """Decodes ``img_bytes``, which shards give, or the file ``img_path``."""

    def __init__(self, color_type: str) -> None:
        self.color_type = color_type
        self.loader = LoadImageOrSkip()

    def __call__(self, results: dict) -> dict:
        # What the training refuses is refused here, for the same reason.
        image = self.loader.load(results['img_path'], results.get('img_bytes'),
                                 self.color_type)
        return dict(
            results,
            img=image,
            img_shape=image.shape[:2],
            ori_shape=image.shape[:2])


@contextlib.contextmanager
def image_errors(path: str) -> Iterator[None]:
    """Say which image it was: OpenCV's errors do not.

    Args:
        path (str): Its name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be decoded.
    """
    try:
        yield
    except BadImageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise FileNotFoundError(f'There is no image {path!r}.') from None
        raise ValueError(f'The image {path!r} cannot be decoded: {error}. '
                         'Replace or remove it.') from None
    except Exception as error:
        raise ValueError(
            f'The image {path!r} cannot be decoded '
            f'({type(error).__name__}: {error}). Replace or remove it.'
        ) from None


def readable_images(
    paths: Sequence[str],
    wanted: Optional[int] = None,
    num_workers: int = 0
) -> Tuple[List[str], List[Tuple[str, str]]]:
    """The first few files that the training would not refuse.

    Args:
        paths (Sequence[str]): The files. They are decoded.
        wanted (int, optional): How many. Defaults to None, all.
        num_workers (int): Processes that read. Defaults to 0, this one.

    Returns:
        tuple[list, list]: Paths of the readable ones, and path and reason of
        the others that were met.
    """
    readable, broken = [], []
    reasons = DataLoader(
        _Reasons(paths),
        batch_size=None,
        num_workers=num_workers,
        generator=torch.Generator())  # no number is drawn from the default
    for path, reason in zip(paths, reasons):
        if reason is None:
            readable.append(path)
        else:
            broken.append((path, reason))
        if len(readable) == wanted:
            break
    return readable, broken


def list_sound_images(folder: str) -> List[str]:
    """Paths of all images under a folder, where all of them are readable.

    Args:
        folder (str): The folder.

    Returns:
        list[str]: From :func:`list_images`, which has further errors.

    Raises:
        ValueError: If some are broken.
    """
    paths, broken = readable_images(list_images(folder))
    if broken:
        named = ', '.join(f'{path!r} ({why})' for path, why in broken[:5])
        more = f' and {len(broken) - 5} more' * (len(broken) > 5)
        raise ValueError(f'{len(broken)} of {len(paths) + len(broken)} files '
                         f'under {folder!r} cannot be decoded: {named}{more}. '
                         'Replace or remove them.')
    return paths


class _Reasons(Dataset):
    """Why each file cannot be used; None where it can."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths, self.loader = paths, LoadImageOrSkip()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Optional[str]:
        try:
            self.loader.load(self.paths[index])
        except BadImageError as error:
            return str(error)
        return None


class ImageFiles(Dataset):
    """Image files as the model sees them at test time.

    Args:
        paths (Sequence[str]): The files.
        img_size (int): See :func:`central_pipeline`, as the following.
        crop_pct (float): Defaults to 0.875.
        channels (int): Defaults to 3.

    Raises:
        ValueError: If an option has no legal value.
    """

    def __init__(self,
                 paths: Sequence[str],
                 img_size: int,
                 crop_pct: float = 0.875,
                 channels: int = 3) -> None:
        self.paths = list(paths)
        self.pipeline = central_pipeline(img_size, crop_pct, channels)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict:
        """An image in mmpretrain's format.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it cannot be decoded.
        """
        path = self.paths[index]
        with image_errors(path):
            return self.pipeline(dict(img_path=path))
