"""ShardDataset: the same files as in the folder, from a disk and by URL."""
import functools
import json
import multiprocessing
import os
import pickle
import shutil
import socket
import sys
import time

import numpy as np
import pytest
import tifffile
import torch
import torch.distributed as dist
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from dmae_mm.datasets import ShardDataset
from dmae_mm.datasets.shards import shard_folder as module
from dmae_mm.datasets.shards.write_shards import write_shards
from dmae_mm.launch.image_files import image_files
from tests.toys.band_files import write_band_classes
from tests.toys.shard_files import Server, contents_of, write_files

pytest.importorskip('webdataset', reason='the extra "shards" is not installed')
needs_curl = pytest.mark.skipif(
    not shutil.which('curl'), reason='webdataset fetches URLs with curl')
fork = multiprocessing.get_context('fork')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Labelled shards of few files, and what is in the files."""
    root = tmp_path_factory.mktemp('shards')
    contents = write_files(root / 'images')
    write_shards(
        str(root / 'images'), str(root / 'shards'), True, shard_bytes=8000)
    return root / 'shards', contents


@pytest.fixture
def shards(folder):
    return str(folder[0])


@pytest.fixture
def contents(folder):
    return folder[1]


@pytest.fixture
def server(folder):
    server = Server(folder[0])
    yield server
    server.close()


def test_windows_has_no_pread(shards, contents, monkeypatch):
    monkeypatch.delattr(os, 'pread')
    assert contents_of(ShardDataset(shards, with_label=True)) == contents


def test_files_are_read_unchanged(shards, contents):
    dataset = ShardDataset(shards, with_label=True)
    assert len(dataset) == len(contents) == 50
    assert contents_of(dataset) == contents
    assert dataset.metainfo['classes'] == ('cat', 'dog')
    for index in range(50):
        info = dataset.get_data_info(index)
        assert info['sample_idx'] == index
        assert info['img_path'].startswith(f'{shards}/0000')
        name = info['img_path'].split('.tar/')[1]
        assert info['gt_label'] == ('cat', 'dog').index(name.split('/')[0])
    assert len(dataset.shard_sizes) > 4 and sum(dataset.shard_sizes) == 50
    assert dataset.get_gt_labels().tolist().count(1) == 20


def test_without_labels_there_is_no_label(shards):
    dataset = ShardDataset(shards, lazy_init=True)
    assert 'gt_label' not in dataset[3]
    assert 'classes' not in dataset.metainfo


def test_webdataset_itself_reads_the_shards(shards, contents):
    import webdataset
    paths = [os.path.join(shards, name) for name in sorted(os.listdir(shards))
             if name.endswith('.tar')]
    found = {}
    for sample in webdataset.WebDataset(paths, shardshuffle=False):
        for ending, content in sample.items():
            if not ending.startswith('__') and not ending.endswith('cls'):
                found[f'{sample["__key__"]}.{ending}'.lower()] = content
    # WebDataset writes endings in small letters.
    assert found == {
        name.lower(): content
        for name, content in contents.items()
    }


def test_the_pipeline_gets_the_whole_file(shards, contents):

    def transform(results):
        return len(results['img_bytes']), sorted(results)

    dataset = ShardDataset(shards, [transform])
    lengths = {dataset[index][0] for index in range(len(dataset))}
    assert lengths == {len(content) for content in contents.values()}
    assert dataset[0][1] == ['img_bytes', 'img_path', 'sample_idx']


def test_few_files_stay_open_and_none_is_pickled(shards, contents,
                                                 monkeypatch):
    monkeypatch.setattr(module, '_OPEN_FILES', 2)
    dataset = ShardDataset(shards)
    before = len(os.listdir('/proc/self/fd'))
    assert contents_of(dataset) == contents
    assert len(os.listdir('/proc/self/fd')) <= before + 2
    copied = pickle.loads(pickle.dumps(dataset))
    assert not copied.data_list._open and contents_of(copied) == contents


@needs_curl
def test_workers_fetch_each_file_once(server, contents, tmp_path):
    dataset = ShardDataset(
        server.url, with_label=True, cache_dir=str(tmp_path))
    loader = DataLoader(
        dataset, batch_size=3, num_workers=2, shuffle=True,
        collate_fn=lambda samples: samples)
    found = [sample for batch in loader for sample in batch]
    assert len(found) == 50
    assert {
        sample['img_path'].split('.tar/')[1]: sample['img_bytes']
        for sample in found
    } == contents
    assert found[0]['img_path'].startswith(server.url)
    assert set(server.requests.values()) == {1}
    assert len(server.requests) == len(dataset.shard_sizes) + 2
    # A second run finds all but the index in the cache.
    server.requests.clear()
    assert contents_of(
        ShardDataset(server.url, cache_dir=str(tmp_path))) == contents
    assert server.requests == {'/index.json': 1}


def test_a_cache_keeps_to_its_size(folder, tmp_path):
    """Here with a command for a URL."""
    shards = str(tmp_path / 'small')
    write_shards(str(folder[0].parent / 'images'), shards, shard_bytes=1500)
    make = functools.partial(
        ShardDataset, f'pipe:cat {shards}/{{}}', cache_dir=str(tmp_path / 'c'))
    sizes = [shard['bytes'] for shard in make().data_list.index['shards']]
    limit = 8 * max(sizes)
    assert sum(sizes) > 2 * limit
    with pytest.raises(ValueError, match=f'cache_size={limit - 1} is too sm'):
        make(cache_size=limit - 1)
    dataset = make(cache_size=limit)
    taken = []
    for index in range(len(dataset)):
        dataset[index]
        taken.append(
            sum(file.stat().st_size for file in tmp_path.glob('c/*/shards/*')))
    # It makes room before it fetches.
    assert limit < max(taken) <= limit + max(sizes)
    assert contents_of(dataset) == folder[1]  # fetched again


@needs_curl
def test_a_killed_download_leaves_nothing_in_the_way(server, contents,
                                                     tmp_path):
    dataset = ShardDataset(server.url, cache_dir=str(tmp_path))
    server.slow.set()
    child = fork.Process(target=dataset.__getitem__, args=(0, ))
    child.start()
    cache = next(tmp_path.iterdir()) / 'shards'
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if cache.exists() and any(cache.iterdir()):
            break
        time.sleep(0.01)
    child.kill()
    child.join()
    partial, = cache.iterdir()
    assert partial.name.startswith('000000.tar.temp')
    server.slow.clear()
    assert contents_of(dataset) == contents
    assert all(file.suffix == '.tar' for file in cache.iterdir())


@needs_curl
def test_a_broken_download_is_an_error_and_not_kept(server, contents,
                                                    tmp_path):
    dataset = ShardDataset(server.url, cache_dir=str(tmp_path))
    server.broken.add('/000000.tar')
    with pytest.raises(OSError, match=f'Cannot fetch {server.url}/000000.tar'):
        dataset[0]
    assert not list((next(tmp_path.iterdir()) / 'shards').iterdir())
    server.broken.clear()
    assert contents_of(dataset) == contents


def test_a_cut_file_in_the_cache_is_fetched_again(shards, contents, tmp_path):
    url = f'pipe:cat {shards}/{{}}'
    contents_of(ShardDataset(url, cache_dir=str(tmp_path)))
    for path in tmp_path.glob('*/shards/*.tar'):
        os.truncate(path, 100)  # as a power failure may
    assert contents_of(ShardDataset(url, cache_dir=str(tmp_path))) == contents


def test_other_shards_at_the_same_url_are_fetched(folder, tmp_path):
    images, served = tmp_path / 'images', tmp_path / 'served'
    write_files(images)
    (images / 'cat' / '0.JPEG').write_bytes(b'another image')
    url = f'pipe:cat {served}/{{}}'
    shutil.copytree(folder[0], served)
    first = ShardDataset(url, cache_dir=str(tmp_path / 'cache'))
    assert contents_of(first) == folder[1]
    shutil.rmtree(served)
    write_shards(str(images), str(served), True, shard_bytes=8000)
    second = ShardDataset(url, cache_dir=str(tmp_path / 'cache'))
    assert contents_of(second) == {
        **folder[1], 'cat/0.JPEG': b'another image'
    }


class TestErrors:

    def test_no_shards(self, tmp_path):
        with pytest.raises(FileNotFoundError, match='no shards in.*index.json '
                           'cannot be read.*make_shards.py'):
            ShardDataset(str(tmp_path))

    @needs_curl
    def test_no_shards_at_a_url(self, server, tmp_path):
        url = f'{server.url}/not'
        with pytest.raises(FileNotFoundError) as raised:
            ShardDataset(url, cache_dir=str(tmp_path))
        assert str(raised.value) == (
            f'There are no shards in {url!r}: {url}/index.json cannot be '
            'read: curl ended with status 22 (the server refuses it: not '
            'found, or not allowed?). Check data_root.')

    def test_a_command_that_fails(self, tmp_path):
        """Whatever is in its command line."""
        with pytest.raises(FileNotFoundError,
                           match='cannot be read: exit ended with status 3.'):
            ShardDataset("pipe:exit 3; echo '{}'", cache_dir=str(tmp_path))

    @pytest.mark.parametrize('text', ['[]', '{"format": "other"}', 'no json'])
    def test_another_index(self, tmp_path, text):
        (tmp_path / 'index.json').write_text(text)
        with pytest.raises(ValueError, match='is not the index of shards'):
            ShardDataset(str(tmp_path))

    @pytest.mark.parametrize('name', ['000001.tar', 'samples.npy'])
    @pytest.mark.parametrize('cut', [True, False])
    def test_damage(self, shards, tmp_path, name, cut):
        copy = tmp_path / 'copy'
        shutil.copytree(shards, copy)
        if cut:
            os.truncate(copy / name, 1000)
            expected = pytest.raises(
                OSError, match=f'{name} has 1000 bytes, but .* by the index')
        else:
            os.remove(copy / name)
            expected = pytest.raises(FileNotFoundError, match=name)
        with expected:
            contents_of(ShardDataset(str(copy)))

    def test_no_labels(self, shards, tmp_path):
        copy = tmp_path / 'copy'
        shutil.copytree(shards, copy)
        index = json.loads((copy / 'index.json').read_text())
        (copy / 'index.json').write_text(json.dumps({**index,
                                                     'classes': None}))
        with pytest.raises(ValueError, match='have no labels: set with_label'):
            ShardDataset(str(copy), with_label=True)

    def test_options(self, shards, tmp_path):
        with pytest.raises(ValueError, match='is a URL: set cache_dir'):
            ShardDataset('https://example.org/shards')
        with pytest.raises(ValueError, match='is a folder, .*leave out cache'):
            ShardDataset(shards, cache_dir=str(tmp_path))
        with pytest.raises(TypeError, match='no option cache='):
            ShardDataset(shards, cache=1)

    def test_a_missing_package(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, 'webdataset', None)
        with pytest.raises(ImportError, match=r'dmae_mm\[shards\]'):
            ShardDataset('pipe:cat {}', cache_dir=str(tmp_path))


def _read_epoch(rank, port, url, cache_dir, done, results):
    """What a process of two sees of an epoch, behind `done` samples."""
    dist.init_process_group(
        'gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    loader = Runner.build_dataloader(
        dict(
            batch_size=4,
            num_workers=2,
            sampler=dict(type='mmpretrain.ShardSampler', window=20),
            collate_fn=dict(type='pseudo_collate'),
            dataset=dict(
                type='mmpretrain.ShardDataset',
                data_root=url,
                cache_dir=cache_dir)),
        seed=0)
    loader.sampler.set_epoch(1)
    loader.sampler.skip(done)
    batches = [batch['img_path'] for batch in loader]
    assert len(batches) == len(loader) - done // 4
    results.put((rank, batches))
    dist.barrier()
    dist.destroy_process_group()


def _two_processes(url, cache_dir, done):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    results = fork.Queue()
    processes = [
        fork.Process(
            target=_read_epoch,
            args=(rank, port, url, cache_dir, done, results))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    return found[0], found[1]


@needs_curl
def test_two_processes_with_two_workers_each(server, tmp_path):
    """Each sample once, each shard fetched once, and resumed exactly."""
    torch.set_num_threads(1)
    whole = _two_processes(server.url, str(tmp_path), 0)
    seen = [path for rank in whole for batch in rank for path in batch]
    assert len(seen) == len(set(seen)) == 50
    assert max(server.requests[f'/{shard}'] for shard in os.listdir(
        next(tmp_path.iterdir()) / 'shards')) == 1
    resumed = _two_processes(server.url, str(tmp_path), 12)
    assert resumed == (whole[0][3:], whole[1][3:])


def test_deep_images_of_many_channels(tmp_path):
    """Shards hold the files: they are decoded as those of a folder are."""
    root = write_band_classes(tmp_path / 'images', 2, 3, 5, seed=0)
    write_shards(root, str(tmp_path / 'shards'))
    loader = dict(
        type='LoadImageOrSkip', channels=5, value_range=(0, 4095))
    dataset = ShardDataset(str(tmp_path / 'shards'), [loader])
    assert len(dataset) == 6
    for index in range(6):
        sample = dataset[index]
        name = sample['img_path'].split('/')[-2:]
        pixels = tifffile.imread(os.path.join(root, *name))
        assert (sample['img'] == np.rint(pixels * (255 / 4095))).all()
    line, broken = image_files(dataset)
    assert (line, broken) == ('6 of 6 images decoded, 0 broken', {})
