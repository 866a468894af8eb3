from typing import Any, Iterator, Optional, Sequence

import numpy as np
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS

from dmae_mm.options import reject_unknown_options

from .fetch_ahead import fetch_ahead
from .shard_folder import ShardFolder


@DATASETS.register_module()
@reject_unknown_options
class ShardDataset(BaseDataset):
    """Images in shards, on a disk or at a URL.

    ``tools/dataset_converters/make_shards.py`` makes shards from a folder of
    images. Each sample can be read by its index, as in any data set of
    mmengine; so any sampler of mmengine works. ``ShardSampler`` is the one
    that reads few shards at a time, which a URL needs.

    Args:
        data_root (str): Folder of the shards, or URL that ``webdataset``
            opens: ``https://``, ``gs://``, ``hf://``, ``sftp://`` ..., or
            ``pipe:COMMAND`` with ``{}`` for the name of a file.
        pipeline (Sequence[dict]): mmpretrain's transforms. The first finds
            ``img_bytes``, the whole image file, ``img_path``, a name for
            messages, and with labels ``gt_label``. Defaults to ().
        with_label (bool): Whether samples have their label. Defaults to
            False.
        cache_dir (str, optional): Folder on a local disk where shards from a
            URL are kept; all processes of a machine share it. Defaults to
            None: ``data_root`` is a folder.
        cache_size (int, optional): Bytes that the cache may take. Defaults to
            None: all shards are kept.
        lazy_init (bool): Read the index later, by ``full_init()``. Defaults
            to False.

    Raises:
        FileNotFoundError: If there is no index: not a folder of shards.
        ImportError: If ``data_root`` is a URL and ``webdataset`` not
            installed.
        OSError: If a file cannot be fetched, or has another size than the
            index says.
        ValueError: If labels are asked for and there are none, or an option
            does not fit the others or the shards.
    """

    def __init__(self,
                 data_root: str,
                 pipeline: Sequence[dict] = (),
                 with_label: bool = False,
                 cache_dir: Optional[str] = None,
                 cache_size: Optional[int] = None,
                 lazy_init: bool = False) -> None:
        self._shards = dict(
            root=data_root,
            with_label=with_label,
            cache_dir=cache_dir,
            cache_size=cache_size)
        # The index stays in a file that all processes map into memory.
        super().__init__(
            ann_file='',
            pipeline=pipeline,
            serialize_data=False,
            lazy_init=lazy_init)

    def load_data_list(self) -> ShardFolder:
        """Open the shards.

        Returns:
            ShardFolder: Describes a sample by its index, as a list of
            ``dict`` would.
        """
        folder = ShardFolder(**self._shards)
        if folder.with_label:
            self._metainfo['classes'] = tuple(folder.index['classes'])
        return folder

    @property
    def shard_sizes(self) -> np.ndarray:
        """Number of samples of each shard: (shards,), in order of index."""
        self.full_init()
        return self.data_list.shard_sizes

    def fetch_ahead(self, indices: Iterator[int],
                    processes: int) -> Iterator[int]:
        """Fetch shards from a URL before their samples are read.

        Args:
            indices (Iterator[int]): Samples in the order of their use.
            processes (int): How many share a shard, each with indices of its
                own.

        Returns:
            Iterator[int]: The same indices.
        """
        self.full_init()
        folder = self.data_list
        if not folder.is_remote:
            return indices
        # The samples of four shards, which then are fetched at a time.
        count = int(4 * folder.shard_sizes.mean()) // processes
        return fetch_ahead(indices, count, folder.shard_of, folder.fetch)

    def prepare_data(self, idx: int) -> Any:
        """Read a sample and run it through the pipeline.

        Args:
            idx (int): Index of the sample.

        Returns:
            Any: What the pipeline returns.
        """
        info = self.get_data_info(idx)
        info['img_bytes'] = self.data_list.read(idx)
        return self.pipeline(info)

    def extra_repr(self) -> Sequence[str]:
        """Lines about the shards for ``repr``."""
        return [f'Shards: \t{self._shards["root"]}']
