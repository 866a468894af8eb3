"""A look at a folder of images, before a training."""
import hashlib
import heapq
import os
import os.path as osp
import sys
import textwrap
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np
from tqdm import tqdm

from dmae_mm.messages import first_few

from .folders import EXTENSIONS, listed_endings, no_images
from .near_duplicates import near_duplicates
from .opened_image import OpenedImage, cannot_be_used
from .survey_consequences import not_read, survey_consequences
from .transforms import BadImageError

# How many files are decoded at a time, and how many between two looks at the
# clock.
THREADS, CHUNK = 4, 32
# Letters in a line of the table.
WIDTH, INDENT = 79, 18


@dataclass(frozen=True)
class ImageSurvey:
    """What a folder of images holds; :func:`survey_images` makes it.

    All but ``num_images``, ``ignored`` and ``hidden`` is known of the images
    that were opened, all of them or a random sample.

    Attributes:
        root (str): The folder.
        num_images (int): Files that the data set will use.
        sampled (int): Files that were opened, broken ones included.
        heights (np.ndarray): (N, ), in pixels, of the N opened images that
            can be used. As they are decoded: turned as their EXIF data say.
        widths (np.ndarray): (N, ), alike.
        modes (Counter): How many of each of Pillow's modes, such as 'RGB',
            'L', 'RGBA', 'P' or 'CMYK'; '5 channels' for a TIFF of channels
            that are no colours.
        bit_depths (Counter): How many of 8 and of 16 bits a value.
        channels (int): What a config should give ``LoadImageOrSkip``: 3,
            which takes grey images as well, or, if most are TIFF files of
            channels that are no colours, the number of these.
        value_range (tuple[int, int], optional): What a config should give
            ``LoadImageOrSkip`` where all images have 16 bits a value and use
            fewer: (0, 4095) for 12. None otherwise.
        broken (list[tuple[str, str]]): Path and reason of those opened that
            the training cannot use.
        ignored (Counter): Files that are not taken for images, by their
            ending in small letters, '.heic', or 'without ending'; 'broken
            link' for links to nothing. Hidden files are not among them.
        hidden (int): Files whose name begins with a dot; they are not used.
        duplicates (list[list[str]]): Groups of paths of images that show the
            same picture.
    """
    root: str
    num_images: int
    sampled: int
    heights: np.ndarray
    widths: np.ndarray
    modes: Counter
    bit_depths: Counter
    channels: int
    value_range: Optional[Tuple[int, int]]
    broken: List[Tuple[str, str]]
    ignored: Counter
    hidden: int
    duplicates: List[List[str]]

    def table(self) -> str:
        """What was found, for a person; lines of at most 79 letters."""
        number = f'{self.num_images:,}'
        if self.sampled < self.num_images:
            number += f', of which {self.sampled:,} were opened, at random'
        rows = [('folder', self.root), ('images', number),
                ('', _columns(('smallest', 'median', 'largest')))]
        for name, values, digits in (
            ('width', self.widths, 0), ('height', self.heights, 0),
            ('megapixels', self.widths * (self.heights / 1e6), 2)):
            rows.append((name, _columns([
                f'{value:,.{digits}f}' for value in (
                    values.min(), np.median(values), values.max())])))
        rows += [
            ('modes', _counted(self.modes)),
            ('bits a value', _counted(self.bit_depths)),
            ('near duplicates', self._said_duplicates()),
            ('cannot be used', first_few([
                f'{self._short(path)} ({reason})'
                for path, reason in self.broken], 3, '; ')),
            ('not read', listed_endings(self.ignored)),
            ('hidden files', f'{self.hidden:,}' * bool(self.hidden)),
        ]
        if self.broken:
            name, said = rows[-3]
            rows[-3] = (name, f'{len(self.broken):,}: {said}')
        return '\n'.join(
            _row(name, value or 'none') for name, value in rows)

    def consequences(self, size: int = 224) -> List[str]:
        """What follows from it for a training, one line each.

        Args:
            size (int): Pixels on a side of the crop. Defaults to 224.

        Returns:
            list[str]: With the option that answers it where there is one.
        """
        return survey_consequences(self, size)

    def _said_duplicates(self) -> str:
        if not self.duplicates:
            return ''
        images = sum(map(len, self.duplicates))
        pictures = f'picture{"s" * (len(self.duplicates) > 1)}'
        return (f'{images:,} images show {len(self.duplicates):,} {pictures}'
                ': ' + first_few([
                    ' = '.join(map(self._short, group[:3])) +
                    ' = ...' * (len(group) > 3) for group in self.duplicates
                ], 3, '; '))

    def _short(self, path: str) -> str:
        return osp.relpath(path, self.root)


def survey_images(folder: str,
                  max_images: int = 2000,
                  seed: int = 0,
                  max_seconds: float = 60.) -> ImageSurvey:
    """Count the images under a folder, and open some or all of them.

    The files are those that ``CustomDataset`` of
    ``configs/_base_/datasets/image_folder.py`` finds, and they are opened as
    ``LoadImageOrSkip`` opens them, so that what is broken here is broken in
    the training. Names are read one after another and not kept, so that a
    million needs no more memory than a few. Progress is shown on stderr when
    it takes more than two seconds.

    Args:
        folder (str): The folder, with its sub-folders.
        max_images (int): How many are opened at most. Defaults to 2000.
        seed (int): Decides which, together with their names; in which order
            the disk lists them does not matter. Defaults to 0.
        max_seconds (float): After so long, no more are opened; those that
            were are a random sample still. Defaults to 60.

    Returns:
        ImageSurvey: What was found.

    Raises:
        FileNotFoundError: If there is no such folder.
        PermissionError: If a folder cannot be listed.
        ValueError: If there is no image in it, or none that can be used.
        ImportError: If TIFF files need ``tifffile``, which is not installed.
    """
    folder = osp.expanduser(folder)
    if not osp.isdir(folder):
        what = 'a file, not a folder' if osp.exists(folder) else 'not there'
        raise FileNotFoundError(
            f'{folder!r} is {what}. Give the folder of the images.')
    names, num_images, ignored, hidden = _count(folder, max_images, seed)
    if not num_images:
        raise ValueError(' '.join([no_images(folder), *not_read(ignored)]))
    opened, broken = _open(
        [osp.join(folder, *name.split('/')) for name in names], max_seconds)
    sampled = len(opened) + len(broken)
    if not opened:
        raise ValueError(
            f'None of {sampled:,} images opened, of {num_images:,} under '
            f'{folder!r}, can be used: ' + first_few([
                f'{osp.relpath(path, folder)} ({reason})'
                for path, reason in sorted(broken)], 3, '; ') +
            '. Is it the right folder, and is the copy whole?')
    channels = Counter(
        image.channels for image in opened).most_common(1)[0][0]
    misfits = {
        image.path: reason for image in opened if image.channels != channels
        and (reason := cannot_be_used(image.path, channels))
    }
    opened = [image for image in opened if image.path not in misfits]
    heights, widths = np.array([image.size for image in opened]).T
    return ImageSurvey(
        root=folder,
        num_images=num_images,
        sampled=sampled,
        heights=heights,
        widths=widths,
        modes=Counter(image.mode for image in opened),
        bit_depths=Counter(image.bits for image in opened),
        channels=channels,
        value_range=_value_range(opened),
        broken=sorted([*broken, *misfits.items()]),
        ignored=ignored,
        hidden=hidden,
        duplicates=[
            sorted(opened[i].path for i in group)
            for group in near_duplicates([image.small for image in opened])
        ])


def _files(folder: str) -> Iterator[Tuple[str, bool]]:
    """Names of all files below a folder, '/' between their parts.

    They are found as MMEngine's ``LocalBackend`` does: through links and
    hidden folders.

    Yields:
        tuple[str, bool]: The name, and whether there is a file behind it.
    """
    above = ['']
    while above:
        prefix = above.pop()
        with os.scandir(osp.join(folder, *prefix.split('/'))) as entries:
            for entry in entries:
                name = prefix + entry.name
                if entry.is_dir():
                    above.append(name + '/')
                else:
                    yield name, entry.is_file()


def _count(folder: str, limit: int,
           seed: int) -> Tuple[List[str], int, Counter, int]:
    """A random sample of the images, and how many files there are of all.

    Those are taken whose hash is smallest: in whatever order they come.
    """
    ignored: Counter = Counter()
    smallest: List[Tuple[int, str]] = []
    images = hidden = 0
    for name, there in _shown(_files(folder), 'Counting images', 'file'):
        own = name[name.rfind('/') + 1:]
        if own.startswith('.'):
            hidden += 1
        elif not there:
            ignored['broken link'] += 1
        elif not own.lower().endswith(EXTENSIONS):
            ignored[osp.splitext(own)[1].lower() or 'without ending'] += 1
        else:
            images += 1
            # Negative, as the first of a heap is its smallest.
            item = (-_hash(name, seed), name)
            if len(smallest) < limit:
                heapq.heappush(smallest, item)
            else:
                heapq.heappushpop(smallest, item)
    # In the order of their hashes, each first part is a random sample, too.
    return ([name for _, name in sorted(smallest, reverse=True)], images,
            ignored, hidden)


def _hash(name: str, seed: int) -> int:
    digest = hashlib.blake2b(
        os.fsencode(f'{seed}/{name}'), digest_size=8).digest()
    return int.from_bytes(digest, 'big')


def _open(paths: Sequence[str], max_seconds: float
          ) -> Tuple[List[OpenedImage], List[Tuple[str, str]]]:
    """Open images in their order, and say which are broken."""
    opened, broken, began = [], [], time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool, _bar(
            'Opening images', 'image', len(paths)) as bar:
        for start in range(0, len(paths), CHUNK):
            if start and time.perf_counter() - began > max_seconds:
                break
            chunk = paths[start:start + CHUNK]
            for path, found in zip(chunk, pool.map(_try_to_open, chunk)):
                if isinstance(found, OpenedImage):
                    opened.append(found)
                else:
                    broken.append((path, found))
                bar.update()
    return opened, broken


def _try_to_open(path: str) -> Union[OpenedImage, str]:
    try:
        return OpenedImage.of(path)
    except BadImageError as error:
        return str(error)


def _value_range(
        opened: Sequence[OpenedImage]) -> Optional[Tuple[int, int]]:
    if any(image.bits == 8 for image in opened):
        return None
    largest = max(image.largest for image in opened)
    fitting = max(2**largest.bit_length() - 1, 255)
    return (0, fitting) if fitting < 2**16 - 1 else None


def _bar(said: str, unit: str, total: Optional[int] = None) -> tqdm:
    # Seconds from one line to the next, where they do not replace each other.
    pause = 0.5 if sys.stderr.isatty() else 10
    return tqdm(
        desc=said, unit=unit, total=total, mininterval=pause, delay=2,
        leave=False)


def _shown(items: Iterator, said: str, unit: str) -> Iterator:
    with _bar(said, unit) as bar:
        for item in items:
            yield item
            bar.update()


def _row(name: str, value: str) -> str:
    return textwrap.fill(
        value,
        WIDTH,
        initial_indent=name.ljust(INDENT),
        subsequent_indent=' ' * INDENT,
        drop_whitespace=bool(name))


def _columns(values: Sequence[str]) -> str:
    return ''.join(value.rjust(12) for value in values)


def _counted(counts: Dict[Union[int, str], int]) -> str:
    """'RGB 1,900, L 60': the most frequent first."""
    return ', '.join(
        f'{name}: {count:,}' for name, count in Counter(counts).most_common())
