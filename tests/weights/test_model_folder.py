"""The weights in a folder: one set is read, whole; anything else is named."""
import hashlib
import json
import os

import pytest
import torch
from safetensors.torch import save_file

from dmae_mm.weights import read_tensor_file
from dmae_mm.weights.model_folder import read_json
from dmae_mm.weights.pretrained_option import read_for_host
from tests.toys.hostile import PAYLOADS

ONE = {'a.weight': torch.arange(6.).reshape(2, 3)}
TWO = {'b.weight': torch.ones(2, dtype=torch.float16)}
ALL = {**ONE, **TWO}
SHARDS = ['model-00001-of-00002.safetensors',
          'model-00002-of-00002.safetensors']  # yapf: disable
INDEX = 'model.safetensors.index.json'


def write(path, tensors):
    if path.suffix == '.safetensors':
        save_file(tensors, path)
    else:
        torch.save(tensors, path)


def shard(folder, names=SHARDS, index=INDEX, **weight_map):
    for name, tensors in zip(names, (ONE, TWO)):
        write(folder / name, tensors)
    table = {'a.weight': names[0], 'b.weight': names[1], **weight_map}
    (folder / index).write_text(json.dumps(dict(weight_map=table)))


def assert_all(file):
    assert file.tensors.keys() == ALL.keys()
    assert all(torch.equal(file.tensors[name], ALL[name]) for name in ALL)


def refused(path, *parts):
    with pytest.raises((OSError, ValueError)) as caught:
        read_tensor_file(str(path))
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize('name', ['model.safetensors', 'pytorch_model.bin',
                                  'other.pth'])
def test_one_file(tmp_path, name):
    write(tmp_path / name, ALL)
    for trash in ('optimizer.pt', 'training_args.bin', 'rng_state_0.pth',
                  'README.md', 'config.json'):
        (tmp_path / trash).write_text('{}')
    file = read_tensor_file(str(tmp_path))
    assert_all(file)
    assert file.source == file.folder == str(tmp_path)
    content = (tmp_path / name).read_bytes()
    assert file.sha256 == hashlib.sha256(content).hexdigest()
    assert file.num_bytes == len(content)
    assert read_tensor_file(str(tmp_path / name)).folder == str(tmp_path)


@pytest.mark.parametrize('names, index', [
    (SHARDS, INDEX),
    ([name.replace('model', 'pytorch_model').replace('safetensors', 'bin')
      for name in SHARDS], 'pytorch_model.bin.index.json'),
])  # yapf: disable
def test_shards(tmp_path, names, index):
    shard(tmp_path, names, index)
    for path in (tmp_path, tmp_path / index):
        file = read_tensor_file(str(path))
        assert_all(file)
        assert file.source == str(path) and file.folder == str(tmp_path)
        content = b''.join((tmp_path / name).read_bytes() for name in names)
        assert file.sha256 == hashlib.sha256(content).hexdigest()
        assert file.num_bytes == len(content)
    refused(tmp_path / names[0], 'is one shard of several', str(tmp_path))


def test_links_as_in_the_cache_of_the_hub(tmp_path):
    (tmp_path / 'blobs').mkdir()
    folder = tmp_path / 'snapshot'
    folder.mkdir()
    for number, (name, tensors) in enumerate(zip(SHARDS, (ONE, TWO))):
        write(tmp_path / 'blobs' / f'{number}.safetensors', tensors)
        os.symlink(f'../blobs/{number}.safetensors', folder / name)
    (folder / INDEX).write_text(
        json.dumps(
            dict(weight_map={
                'a.weight': SHARDS[0],
                'b.weight': SHARDS[1]
            })))
    assert_all(read_tensor_file(str(folder)))


def test_a_missing_shard(tmp_path):
    shard(tmp_path)
    (tmp_path / SHARDS[1]).unlink()
    refused(tmp_path, 'lists 2 shards', f'{SHARDS[1]} is not there')


def test_shards_without_index(tmp_path):
    shard(tmp_path)
    (tmp_path / INDEX).unlink()
    refused(tmp_path, 'has 2 shards', INDEX)


@pytest.mark.parametrize('name', [
    '../model.safetensors', '/etc/model.safetensors', 'sub/a.safetensors',
    '..\\a.safetensors', '..', 'config.json', ''])
def test_shards_that_leave_the_folder(tmp_path, name):
    shard(tmp_path, **{'b.weight': name})
    refused(tmp_path, 'is refused: it names', 'in the same folder')


@pytest.mark.parametrize('table', [
    {'c.weight': SHARDS[1]}, {'b.weight': SHARDS[0]}])
def test_an_index_of_other_tensors(tmp_path, table):
    shard(tmp_path, **table)
    refused(tmp_path, 'does not hold what', 'differ in')


@pytest.mark.parametrize('text', [
    '', '[]', '{', '{"weight_map": {}}', '{"weight_map": {"a": 3}}',
    '[' * 100000, '\xff', '1' * 5000])
def test_broken_indices(tmp_path, text):
    shard(tmp_path)
    (tmp_path / INDEX).write_text(text, encoding='latin-1')
    refused(tmp_path, INDEX)


def test_descriptions_are_small(tmp_path):
    path = tmp_path / 'config.json'
    path.write_text('{"a": "' + 'x' * 100 + '"}')
    assert read_json(str(path))['a'] == 'x' * 100
    with pytest.raises(ValueError, match='larger than 0 MiB'):
        read_json(str(path), 50)


@pytest.mark.parametrize('names', [[], ['config.json', 'notes.txt']])
def test_no_weights(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text('{}')
    refused(tmp_path, 'without a file of weights', *names)


def test_the_same_weights_twice(tmp_path):
    write(tmp_path / 'model.safetensors', ALL)
    write(tmp_path / 'pytorch_model.bin',
          dict(ALL, position_ids=torch.arange(3)))
    file = read_tensor_file(str(tmp_path))
    assert_all(file)
    content = (tmp_path / 'model.safetensors').read_bytes()
    assert file.sha256 == hashlib.sha256(content).hexdigest()
    shard(tmp_path)
    assert_all(read_tensor_file(str(tmp_path)))


@pytest.mark.parametrize('other', [
    dict(ALL, more=torch.ones(1)), dict(ALL, **{'b.weight': torch.ones(2)}),
    dict(ALL, **{'a.weight': torch.zeros(2, 3)}), ONE])
def test_different_weights(tmp_path, other):
    write(tmp_path / 'model.safetensors', ALL)
    write(tmp_path / 'pytorch_model.bin', other)
    refused(tmp_path, 'more than one set of weights', 'pytorch_model.bin',
            'model.safetensors', 'Give the path')
    assert_all(read_tensor_file(str(tmp_path / 'model.safetensors')))


def test_pickles_are_not_executed(tmp_path):
    canary = tmp_path / 'canary'
    write(tmp_path / 'pytorch_model.bin',
          dict(ALL, x=PAYLOADS['system'](canary)))
    refused(tmp_path, 'is refused: it asks for')
    assert not canary.exists()


def test_mmengine_reads_no_folders(tmp_path):
    write(tmp_path / 'model.pth', ALL)
    with pytest.raises(FileNotFoundError, match='is a folder. Give the path '
                       f'of a file in it: {tmp_path}/model.pth'):
        read_for_host(str(tmp_path))
    assert_all(read_for_host(str(tmp_path / 'model.pth')))
