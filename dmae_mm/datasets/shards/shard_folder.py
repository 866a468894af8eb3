import hashlib
import json
import os
import os.path as osp
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO, Optional

import numpy as np

from .shard_cache import ShardCache, check_size, read_url

# What make_shards.py writes beside the shards.
INDEX_FILE = 'index.json'
SAMPLES_FILE = 'samples.npy'
FORMAT = 'dmae_mm shards, version 1'

# Each process keeps this many shards open. One that was deleted from the cache
# meanwhile takes room on the disk until it is closed.
_OPEN_FILES = 16


class ShardFolder:
    """Random access to the files in a folder of shards.

    The folder was written by ``tools/dataset_converters/make_shards.py`` and
    lies on a disk or at a URL. Shards at a URL are fetched whole, when the
    first of their samples is read or before, into a :class:`ShardCache`.

    Args:
        root (str): ``data_root`` of :class:`ShardDataset`.
        with_label (bool): As there, like the rest and the errors.
        cache_dir (str, optional): Defaults to None.
        cache_size (int, optional): Defaults to None.
    """

    def __init__(self,
                 root: str,
                 with_label: bool = False,
                 cache_dir: Optional[str] = None,
                 cache_size: Optional[int] = None) -> None:
        self.root, self.with_label = root, with_label
        self.is_remote = '://' in root or root.startswith('pipe:')
        if self.is_remote and not cache_dir:
            raise ValueError(
                f'data_root={root!r} is a URL: set cache_dir to a folder on a '
                'local disk, where its shards are kept.')
        if not self.is_remote and (cache_dir, cache_size) != (None, None):
            raise ValueError(
                f'data_root={root!r} is a folder, which is read in place: '
                'leave out cache_dir and cache_size, which are for URLs.')
        content = self._read_index()
        self.index = json.loads(content)
        self._shards = self.index['shards']
        if with_label and self.index['classes'] is None:
            raise ValueError(
                f'The shards in {root!r} have no labels: set with_label=False,'
                ' or write them anew from class folders with make_shards.py '
                '--with-label.')
        samples = self._url(SAMPLES_FILE)
        if self.is_remote:
            # The same URL may have other shards one day: by content.
            name = hashlib.sha256(content).hexdigest()[:16]
            folder = osp.join(cache_dir, name)
            needed = 8 * max(shard['bytes'] for shard in self._shards)
            if cache_size is not None and cache_size < needed:
                raise ValueError(
                    f'cache_size={cache_size} is too small: it has to hold at '
                    f'least 8 shards, {needed} bytes, and should hold those '
                    'of one window of ShardSampler and 4 more.')
            self._cache = ShardCache(self._url, osp.join(folder, 'shards'),
                                     cache_size)
            # Apart from the shards, so that it is not deleted for them.
            samples = ShardCache(self._url, osp.join(folder, 'index')).fetch(
                SAMPLES_FILE, self.index['samples_bytes'])
        check_size(samples, self.index['samples_bytes'])
        self.samples = np.load(samples, mmap_mode='r', allow_pickle=False)
        self._open = OrderedDict()

    @property
    def shard_sizes(self) -> np.ndarray:
        """Number of samples of each shard: (shards,), int64."""
        return np.array([shard['samples'] for shard in self._shards])

    def shard_of(self, index: int) -> int:
        """Number of the shard that has a sample."""
        return int(self.samples['shard'][index])

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict:
        """What is known of a sample without reading it.

        Args:
            index (int): Number of the sample.

        Returns:
            dict: ``img_path``, which is shard and name inside it, for
            messages, and with labels ``gt_label``.
        """
        sample = self.samples[index]
        shard = self._shards[sample['shard']]['file']
        name = os.fsdecode(bytes(sample['name']))
        info = dict(img_path=f'{self._url(shard)}/{name}')
        if self.with_label:
            info['gt_label'] = int(sample['label'])
        return info

    def read(self, index: int) -> bytes:
        """Read a sample.

        Args:
            index (int): Number of the sample.

        Returns:
            bytes: The whole file, unchanged.

        Raises:
            OSError: If its shard is not what the index says.
        """
        sample = self.samples[index]
        file = self._open_shard(int(sample['shard']))
        size = int(sample['size'])
        content = _read_at(file, size, int(sample['offset']))
        if len(content) != size:
            raise OSError(f'{file.name} ended inside a sample: it was changed '
                          'while it was read.')
        return content

    def fetch(self, number: int) -> str:
        """Bring a shard to this machine, if it is not here.

        Args:
            number (int): Number of the shard.

        Returns:
            str: Path of the shard.

        Raises:
            OSError: If it cannot be fetched, or its size is wrong.
        """
        shard = self._shards[number]
        if self.is_remote:
            return self._cache.fetch(shard['file'], shard['bytes'])
        path = self._url(shard['file'])
        check_size(path, shard['bytes'])
        return path

    def _open_shard(self, number: int) -> BinaryIO:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        while True:
            path = self.fetch(number)
            try:
                file = open(path, 'rb', buffering=0)
                break
            except FileNotFoundError:
                # Another process has just deleted it from the cache.
                if not self.is_remote:
                    raise
        self._open[number] = file
        if len(self._open) > _OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        return file

    def _url(self, name: str) -> str:
        if '{}' in self.root:
            return self.root.replace('{}', name)
        return f'{self.root.rstrip("/")}/{name}'

    def _read_index(self) -> bytes:
        url = self._url(INDEX_FILE)
        try:
            content = read_url(url) if self.is_remote else Path(
                url).read_bytes()
        except OSError as error:
            problem = f'{error}. Check data_root.' if self.is_remote else (
                f'its {INDEX_FILE} cannot be read ({error}). Write some with '
                'tools/dataset_converters/make_shards.py.')
            raise FileNotFoundError(
                f'There are no shards in {self.root!r}: {problem}') from error
        try:
            known = json.loads(content)['format'] == FORMAT
        except (KeyError, TypeError, ValueError):
            known = False
        if not known:
            raise ValueError(
                f'{url} is not the index of shards that this version reads '
                f'({FORMAT!r}). Write them anew with '
                'tools/dataset_converters/make_shards.py.')
        return content

    def __getstate__(self) -> dict:
        # Open files stay with their process.
        return {**self.__dict__, '_open': OrderedDict()}


def _read_at(file: BinaryIO, size: int, offset: int) -> bytes:
    if hasattr(os, 'pread'):
        # Without a position of its own, a file may be shared after a fork.
        return os.pread(file.fileno(), size, offset)
    file.seek(offset)  # Windows has no fork either
    return file.read(size)
