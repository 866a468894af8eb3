"""Weights are found in files of all usual origins, and nothing is lost."""
import argparse
import hashlib
import pathlib

import numpy as np
import pytest
import safetensors.torch
import torch
from mmengine.hooks import EMAHook
from mmengine.runner import Runner

from dmae_mm.checkpoints import read_tensor_file

WEIGHTS = {
    'blocks.0.weight': torch.arange(6.).reshape(2, 3),
    'norm.bias': torch.tensor([1.5, float('nan')])
}


def save(folder, content, name='file.pth', **kwargs):
    path = str(folder / name)
    torch.save(content, path, **kwargs)
    return path


def assert_equal(tensors, wanted):
    assert tensors.keys() == wanted.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor.nan_to_num(), wanted[name].nan_to_num())
        assert tensor.dtype == wanted[name].dtype


@pytest.mark.parametrize('content, ignored', [
    (WEIGHTS, []),
    (dict(WEIGHTS, epoch=3), ['epoch']),
    (dict(model=WEIGHTS, epoch=3, scaler={}), ['epoch', 'scaler']),
    (dict(meta={}, state_dict=WEIGHTS), ['meta']),
    (dict(module=WEIGHTS, model=None), ['model']),
    (dict(state_dict={}, model=WEIGHTS), ['state_dict']),
    (dict(model=dict(WEIGHTS, version=1)), ['version']),
    ({**WEIGHTS, 0: torch.ones(1)}, ['0']),
])
def test_weights_and_what_is_beside_them(tmp_path, content, ignored):
    file = read_tensor_file(save(tmp_path, content))
    assert_equal(file.tensors, WEIGHTS)
    assert file.ignored == ignored


def test_source_size_and_hash(tmp_path):
    path = tmp_path / 'file.safetensors'
    safetensors.torch.save_file(dict(a=torch.zeros(2)), path)
    file = read_tensor_file(path)
    assert file.source == str(path)
    assert file.num_bytes == path.stat().st_size
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_prefix_of_data_parallel_is_removed(tmp_path):
    prefixed = {f'module.{name}': tensor for name, tensor in WEIGHTS.items()}
    file = read_tensor_file(save(tmp_path, dict(model=prefixed)))
    assert_equal(file.tensors, WEIGHTS)


def test_prefix_stays_where_removing_it_could_lose_a_tensor(tmp_path):
    both = {'module.a': torch.zeros(1), 'a': torch.ones(1)}
    assert_equal(read_tensor_file(save(tmp_path, both)).tensors, both)


def test_legacy_format(tmp_path):
    path = save(
        tmp_path,
        dict(model=WEIGHTS, args=argparse.Namespace(lr=.1)),
        _use_new_zipfile_serialization=False)
    file = read_tensor_file(path)
    assert_equal(file.tensors, WEIGHTS)
    assert file.ignored == ['args']


@pytest.mark.parametrize('name', ['a.safetensors', 'A.SAFETENSORS'])
def test_safetensors(tmp_path, name):
    path = str(tmp_path / name)
    safetensors.torch.save_file(WEIGHTS, path, dict(format='pt'))
    file = read_tensor_file(path)
    assert_equal(file.tensors, WEIGHTS)
    assert file.ignored == ['__metadata__']


def test_parameters_become_plain_tensors(tmp_path):
    weight = torch.nn.Parameter(torch.ones(2, 2))
    weight.note = 'an attribute'
    tensor = read_tensor_file(save(tmp_path, dict(w=weight))).tensors['w']
    assert type(tensor) is torch.Tensor and not tensor.requires_grad
    assert not hasattr(tensor, 'note')


def test_objects_beside_the_weights(tmp_path):
    """As training scripts leave them; none of them is built."""
    beside = dict(
        args=argparse.Namespace(
            lr=1e-3, out=pathlib.Path('x'), device=torch.device('cpu')),
        loss=np.float64(.5),
        step=np.int64(3),
        history=np.arange(3.),
        names=np.array(['a', 'b']),
        objects=np.array([None, {}], dtype=object),
        record=np.zeros(2, dtype=[('x', 'f4'), ('y', 'i8')]),
        dtype=np.dtype('float32'),
        half=torch.float16,
        version=torch.__version__)
    path = save(tmp_path, dict(beside, model=WEIGHTS))
    file = read_tensor_file(path)
    assert_equal(file.tensors, WEIGHTS)
    assert file.ignored == list(beside)


def test_arrays_of_numpy_1(tmp_path):
    """numpy 1 and 2 name the same functions differently."""
    path = tmp_path / 'file.pth'
    content = dict(model=WEIGHTS, loss=np.float64(.5), log=np.arange(2))
    save(tmp_path, content, _use_new_zipfile_serialization=False)
    new, old = b'numpy._core.multiarray', b'numpy.core.multiarray'
    if new in path.read_bytes():
        path.write_bytes(path.read_bytes().replace(new, old))
    else:
        path.write_bytes(path.read_bytes().replace(old, new))
    assert_equal(read_tensor_file(path).tensors, WEIGHTS)


@pytest.mark.filterwarnings('ignore')
def test_sparse_and_quantized_tensors_beside_the_weights(tmp_path):
    beside = dict(
        sparse=torch.eye(2).to_sparse(),
        compressed=torch.eye(2).to_sparse_csr(),
        quantized=torch.quantize_per_tensor(
            torch.ones(2), .1, 0, torch.qint8))
    file = read_tensor_file(save(tmp_path, dict(beside, model=WEIGHTS)))
    assert_equal(file.tensors, WEIGHTS)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('make', [
    lambda: torch.eye(2).to_sparse(),
    lambda: torch.eye(2).to_sparse_csr(),
    lambda: torch.quantize_per_tensor(torch.ones(2), .1, 0, torch.qint8),
    lambda: torch.empty(2, device='meta'),
    lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
], ids=['coo', 'csr', 'quantized', 'meta', 'nested'])
def test_weights_must_be_dense(tmp_path, make):
    path = save(tmp_path, dict(model={'norm.weight': make()}))
    with pytest.raises(ValueError, match='norm.weight is a sparse, quantized'):
        read_tensor_file(path)


@pytest.mark.parametrize('content, holds', [
    ({}, 'nothing'),
    (dict(epoch=1, student={'a': torch.ones(1)}), "'epoch', 'student'"),
    ([torch.ones(1)], 'nothing'),
    (torch.ones(1), 'nothing'),
])
def test_no_weights(tmp_path, content, holds):
    with pytest.raises(ValueError) as error:
        read_tensor_file(save(tmp_path, content))
    assert f'holds no named tensors, but {holds}.' in str(error.value)
    assert "under one of the keys 'state_dict', 'model'" in str(error.value)


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='none.pth does not exist'):
        read_tensor_file(str(tmp_path / 'none.pth'))
    with pytest.raises(FileNotFoundError, match='is a folder'):
        read_tensor_file(str(tmp_path))


class RandomImages(torch.utils.data.Dataset):

    def __len__(self):
        return 4

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return dict(inputs=torch.rand(3, 32, 32, generator=generator) * 255)


def test_checkpoint_of_a_training_run(tmp_path, toy_model):
    """With log history, optimizer and EMA; 'state_dict' is the average."""
    toy_model['data_preprocessor'] = dict(
        type='SelfSupDataPreprocessor', mean=[127.] * 3, std=[60.] * 3)
    runner = Runner(
        model=toy_model,
        work_dir=str(tmp_path),
        train_dataloader=dict(
            batch_size=2,
            num_workers=0,
            dataset=RandomImages(),
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=lambda items: dict(
                inputs=torch.stack([item['inputs'] for item in items]),
                data_samples=[None] * len(items))),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=.01)),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
        custom_hooks=[dict(type='EMAHook', momentum=.3)],
        default_scope='mmpretrain',
        experiment_name='checkpoint_of_a_training_run',
        randomness=dict(seed=0))
    runner.train()
    path = str(tmp_path / 'epoch_1.pth')
    assert {
        'builtins.getattr', 'mmengine.logging.history_buffer.HistoryBuffer'
    } <= set(torch.serialization.get_unsafe_globals_in_checkpoint(path))

    file = read_tensor_file(path)
    ema = next(
        hook for hook in runner.hooks if isinstance(hook, EMAHook)).ema_model
    average, last = ema.module.state_dict(), runner.model.state_dict()
    assert_equal(file.tensors, average)
    assert any(not torch.equal(last[name], average[name]) for name in last)
    assert {'meta', 'message_hub', 'optimizer', 'ema_state_dict'} <= set(
        file.ignored)
