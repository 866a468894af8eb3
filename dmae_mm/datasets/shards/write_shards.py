"""Folders of images to shards."""
import errno
import glob
import json
import os
import os.path as osp
import shutil
import tarfile
import zlib
from typing import Callable, List, Optional, Sequence, Tuple

import numpy as np

from dmae_mm.files import WRITING, write_whole

from ..folders import read_class_folders
from ..folders import image_folder
from .shard_cache import webdataset
from .shard_folder import FORMAT, INDEX_FILE, SAMPLES_FILE, ShardFolder


def write_shards(
    root: str,
    destination: str,
    with_label: bool = False,
    shard_bytes: int = 100_000_000,
    report: Callable[[int, int, int, int], None] = lambda *numbers: None
) -> ShardFolder:
    """Copy the images under a folder into shards.

    Shards are tar files in the convention of WebDataset. An image is a member
    with its name, seen from ``root``, and its bytes, both unchanged; a
    labelled one has its label beside it, with the ending ``.cls``. Images are
    dealt to shards in random order, always the same one, so that each shard
    is a sample of the whole. Everything is written into a hidden folder, read
    again, compared, and then renamed.

    Args:
        root (str): Folder of the images, in sub-folders or not.
        destination (str): Folder to make.
        with_label (bool): Whether each sub-folder of ``root`` is a class.
            Defaults to False.
        shard_bytes (int): A shard is closed when its images have this many
            bytes. Defaults to 100,000,000.
        report (Callable[[int, int, int, int], None]): Is called after each
            image with the number of images so far and in all, and of their
            bytes so far and in all. Defaults to nothing.

    Returns:
        ShardFolder: The shards, opened and checked.

    Raises:
        FileExistsError: If ``destination``, or what a killed run left beside
            it, exists.
        FileNotFoundError: If there is no folder ``root``.
        ImportError: If ``webdataset`` is not installed.
        OSError: If there is not enough room, an image cannot be read, or the
            shards read again are not what was written.
        ValueError: If ``shard_bytes`` is not positive, or there is no image
            under ``root``, or ``with_label`` is set and the images have no
            labels.
    """
    if shard_bytes < 1:
        raise ValueError(f'shard_bytes={shard_bytes} is not positive.')
    webdataset()  # refuse at once
    destination = osp.abspath(destination)
    if osp.lexists(destination):
        raise FileExistsError(
            f'{destination!r} exists. Choose another name, or remove it.')
    folder, name = map(glob.escape, osp.split(destination))
    unfinished = glob.glob(osp.join(folder, f'{WRITING}*', name))
    if unfinished:
        raise FileExistsError(
            f'{unfinished[0]!r} exists: another run writes it, or was killed. '
            f'In the latter case, remove {osp.dirname(unfinished[0])!r}.')
    paths, labels, classes = _list_samples(root, with_label)
    total = sum(osp.getsize(osp.join(root, path)) for path in paths)
    # Of an image and of a label, a header and the padding of the last block.
    needed = total + len(paths) * 4 * 512
    with write_whole(destination, size=needed) as unfinished:
        os.mkdir(unfinished)
        if shutil.disk_usage(unfinished).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        _write(
            root, paths, labels, classes, unfinished, shard_bytes,
            lambda done, size: report(done, len(paths), size, total))
        found = len(ShardFolder(unfinished))
        if found != len(paths):
            raise OSError(f'{found} images in the shards, but {len(paths)} '
                          f'under {root!r}.')
    return ShardFolder(destination)


def _list_samples(
    root: str, with_label: bool
) -> Tuple[List[str], List[int], Optional[Sequence[str]]]:
    """Images as the data sets of the configs find them.

    Returns:
        tuple: Paths seen from ``root``, sorted; a label for each, -1 without
        labels; names of the classes, None without labels.
    """
    dataset = read_class_folders(root) if with_label else image_folder(root)
    samples = sorted((osp.relpath(info['img_path'], root).replace(os.sep, '/'),
                      info['gt_label'] if with_label else -1)
                     for info in map(dataset.get_data_info,
                                     range(len(dataset))))
    paths, labels = map(list, zip(*samples))
    return paths, labels, dataset.CLASSES if with_label else None


def _write(root: str, paths: Sequence[str], labels: Sequence[int],
           classes: Optional[Sequence[str]], folder: str, shard_bytes: int,
           report: Callable[[int, int], None]) -> None:
    """Write shards, check each, then write the two files of the index."""
    names = [os.fsencode(path) for path in paths]
    samples = np.zeros(
        len(paths), [('name', f'S{max(map(len, names))}'), ('shard', '<i4'),
                     ('offset', '<i8'), ('size', '<i8'), ('label', '<i4')])
    order = np.random.default_rng(0).permutation(len(paths)).tolist()
    shards, done, size = [], 0, 0
    while done < len(order):
        name = f'{len(shards):06d}.tar'
        path = osp.join(folder, name)
        written, first = {}, size
        with open(path, 'wb') as file, webdataset().TarWriter(
                file, encoder=False, mtime=0, format='PAX_FORMAT') as shard:
            while done < len(order) and size - first < shard_bytes:
                number = order[done]
                with open(osp.join(root, paths[number]), 'rb') as image:
                    content = image.read()
                stem, ending = osp.splitext(paths[number])
                sample = {'__key__': stem, ending[1:]: content}
                if classes is not None:
                    sample['cls'] = str(labels[number]).encode()
                shard.write(sample)
                written[paths[number]] = zlib.crc32(content)
                samples[done] = (names[number], len(shards), 0, len(content),
                                 labels[number])
                done += 1
                size += len(content)
                report(done, size)
        count = len(written)
        samples['offset'][done - count:done] = _check_shard(path, written)
        shards.append(
            dict(file=name, samples=count, bytes=osp.getsize(path)))
    path = osp.join(folder, SAMPLES_FILE)
    np.save(path, samples)
    index = dict(
        format=FORMAT,
        samples=len(samples),
        samples_bytes=osp.getsize(path),
        classes=None if classes is None else list(classes),
        shards=shards)
    with open(osp.join(folder, INDEX_FILE), 'w') as file:
        json.dump(index, file, indent=1)
        file.write('\n')


def _check_shard(path: str, written: dict) -> List[int]:
    """Read a shard again, and return where each image begins."""
    offsets = []
    expected = iter(written.items())
    with tarfile.open(path, 'r:') as shard:
        for member in shard:
            if member.name.endswith('.cls'):
                continue
            found = member.name, zlib.crc32(shard.extractfile(member).read())
            if found != next(expected, None):
                raise OSError(f'{path} is damaged: the member '
                              f'{member.name!r} is not what was written.')
            offsets.append(member.offset_data)
    if len(offsets) != len(written):
        raise OSError(f'{path} is damaged: it has {len(offsets)} images, '
                      f'{len(written)} were written.')
    return offsets
