"""Weights are found in files of all usual origins, nothing is lost, and they
are written as they are."""
import argparse
import hashlib
import pathlib

import numpy as np
import pytest
import safetensors.torch
import torch
from mmengine.hooks import EMAHook
from mmengine.runner import CheckpointLoader

from dmae_mm.weights import read_tensor_file, write_tensor_file

from tests.toys.checkpoints import train

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


OTHERS = {name: tensor + 1 for name, tensor in WEIGHTS.items()}


@pytest.mark.parametrize('content, ignored, key', [
    (WEIGHTS, [], None),
    (dict(WEIGHTS, epoch=3), ['epoch'], None),
    (dict(model=WEIGHTS, epoch=3, scaler={}), ['epoch', 'scaler'], 'model'),
    (dict(meta={}, state_dict=WEIGHTS), ['meta'], 'state_dict'),
    (dict(module=WEIGHTS, model=None), ['model'], 'module'),
    (dict(state_dict={}, model=WEIGHTS), ['state_dict'], 'model'),
    (dict(model=dict(WEIGHTS, version=1)), ['version'], 'model'),
    ({**WEIGHTS, 0: torch.ones(1)}, ['0'], None),
    (dict(model=WEIGHTS, model_ema=None), ['model_ema'], 'model'),
])
def test_weights_and_what_is_beside_them(tmp_path, content, ignored, key):
    file = read_tensor_file(save(tmp_path, content))
    assert_equal(file.tensors, WEIGHTS)
    assert file.ignored == ignored
    assert file.weights_key == key and file.is_averaged is False


@pytest.mark.parametrize('content, key', [
    (dict(state_dict=OTHERS, state_dict_ema=WEIGHTS), 'state_dict_ema'),
    (dict(model=OTHERS, model_ema=WEIGHTS), 'model_ema'),
    (dict(ema_state_dict=OTHERS, state_dict=WEIGHTS), 'state_dict'),
    (dict(student=OTHERS, teacher=WEIGHTS), 'teacher'),
])
def test_averaged_weights_come_first(tmp_path, content, key):
    """Those of timm, of MAE's relatives, of mmengine, of DINO."""
    file = read_tensor_file(save(tmp_path, content))
    assert_equal(file.tensors, WEIGHTS)
    assert file.weights_key == key and file.is_averaged is True


def test_what_a_file_says_about_itself(tmp_path):
    plain = dict(
        epoch=3, seed=None, lr=.5, done=True, cfg='model = dict()',
        teacher=dict(type='MMPretrainTeacher', aligned_blocks=[8]))
    meta = dict(
        plain,
        shape=(1, 2),
        score=np.float64(.5),
        losses=[.1, np.float64(.5)],
        best=dict(score=np.float64(.5), epoch=2),
        huge=1 << 99)
    meta[0] = 'a name that is no text'
    file = read_tensor_file(
        save(
            tmp_path,
            dict(
                model=WEIGHTS, arch='vit', epoch=1, meta=meta,
                optimizer=dict(lr=.1), ema_decay=torch.ones(1))))
    assert file.meta == dict(
        plain, arch='vit', shape=[1, 2], best=dict(epoch=2))


def test_no_description_is_too_large(tmp_path):
    endless, wide = [], ['x' * 1000]
    endless.append(endless)
    for _ in range(7):
        wide = [wide] * 100
    meta = dict(epoch=3, endless=endless)
    file = read_tensor_file(save(tmp_path, dict(model=WEIGHTS, meta=meta)))
    assert file.meta == dict(epoch=3)
    meta.update(log='x' * (1 << 20), time=.5, wide=wide)
    file = read_tensor_file(save(tmp_path, dict(model=WEIGHTS, meta=meta)))
    assert file.meta == dict(epoch=3)


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
    assert file.weights_key is None and file.meta == dict(format='pt')


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


@pytest.mark.parametrize('legacy', [False, True])
def test_weights_must_be_in_the_file(tmp_path, legacy):
    """Not a few bytes that become terabytes when one copies them."""
    expanded = torch.zeros(1).expand(10**12)
    path = save(
        tmp_path,
        dict(model={'norm.weight': expanded}),
        _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
            ValueError, match='norm.weight has 1000000000000 values'):
        read_tensor_file(path)
    # Nobody copies what is beside the weights.
    file = read_tensor_file(
        save(tmp_path, dict(model=WEIGHTS, beside=expanded)))
    assert_equal(file.tensors, WEIGHTS)


def test_weights_may_be_parts_of_a_tensor(tmp_path):
    whole = torch.rand(4, 6)
    views = dict(rows=whole[1:3], turned=whole.t(), none=whole[:0])
    assert_equal(read_tensor_file(save(tmp_path, views)).tensors, views)


@pytest.mark.parametrize('content, holds', [
    ({}, 'nothing'),
    (dict(epoch=1, critic={'a': torch.ones(1)}), "'epoch', 'critic'"),
    ([torch.ones(1)], 'nothing'),
    (torch.ones(1), 'nothing'),
])
def test_no_weights(tmp_path, content, holds):
    with pytest.raises(ValueError) as error:
        read_tensor_file(save(tmp_path, content))
    assert f'holds no named tensors, but {holds}.' in str(error.value)
    assert "under one of the keys 'state_dict_ema', 'model_ema', " \
        "'state_dict', 'model'" in str(error.value)


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='none.pth does not exist'):
        read_tensor_file(str(tmp_path / 'none.pth'))
    with pytest.raises(FileNotFoundError, match='is a folder'):
        read_tensor_file(str(tmp_path))


def test_checkpoint_of_a_training_run(tmp_path, toy_model):
    """With log history, optimizer and what mmengine says about the run."""
    runner, path = train(tmp_path, toy_model)
    assert {
        'builtins.getattr', 'mmengine.logging.history_buffer.HistoryBuffer'
    } <= set(torch.serialization.get_unsafe_globals_in_checkpoint(path))

    file = read_tensor_file(path)
    assert_equal(file.tensors, runner.model.state_dict())
    assert {'meta', 'message_hub', 'optimizer'} <= set(file.ignored)
    assert file.weights_key == 'state_dict' and not file.is_averaged
    assert file.meta['epoch'] == 1 and file.meta['iter'] == 2
    assert file.meta['cfg'] == runner.cfg.pretty_text
    assert file.meta['seed'] == runner.seed
    assert file.meta['teacher'] == dict(
        torch.load(path, weights_only=False)['meta']['teacher'])


def test_checkpoint_with_averaged_weights(tmp_path, toy_model):
    """Of a run with mmengine's EMAHook: 'state_dict' is the average."""
    runner, path = train(tmp_path, toy_model,
                         dict(type='EMAHook', momentum=.3))
    file = read_tensor_file(path)
    ema = next(
        hook for hook in runner.hooks if isinstance(hook, EMAHook)).ema_model
    average, last = ema.module.state_dict(), runner.model.state_dict()
    assert_equal(file.tensors, average)
    assert any(not torch.equal(last[name], average[name]) for name in last)
    assert 'ema_state_dict' in file.ignored
    assert file.weights_key == 'state_dict' and file.is_averaged


META = dict(source='a.pth', not_carried_over=['epoch'])


@pytest.mark.parametrize('name', ['a.pth', 'new/folder/a.safetensors'])
def test_what_is_written_is_read_back(tmp_path, name):
    base = torch.rand(100, 4)
    tensors = dict(
        view=base[3:5],
        transposed=base.t(),
        again=base,
        half=torch.rand(2).half(),
        scalar=torch.tensor(2),
        parameter=torch.nn.Parameter(torch.ones(1)))
    path = tmp_path / name
    write_tensor_file(str(path), tensors, META)
    read = read_tensor_file(str(path)).tensors
    assert read.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert torch.equal(read[key], tensor)
        assert read[key].dtype == tensor.dtype
        assert read[key].is_contiguous() and not read[key].requires_grad
    assert read['view'].untyped_storage().nbytes() == 2 * 4 * 4
    assert [p for p in tmp_path.rglob('*') if p.is_file()] == [path]


def test_meta(tmp_path):
    path = str(tmp_path / 'a.pth')
    write_tensor_file(path, dict(a=torch.ones(1)), META)
    assert CheckpointLoader.load_checkpoint(path)['meta'] == META
    path = str(tmp_path / 'a.safetensors')
    write_tensor_file(path, dict(a=torch.ones(1)), META)
    with safetensors.safe_open(path, 'pt') as file:
        assert file.metadata() == dict(
            source='a.pth', not_carried_over='["epoch"]')


def test_overwriting_is_asked_for(tmp_path):
    path = tmp_path / 'a.pth'
    write_tensor_file(str(path), dict(a=torch.ones(1)), META)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match='a.pth exists already'):
        write_tensor_file(str(path), dict(a=torch.zeros(1)), META)
    assert path.read_bytes() == before
    write_tensor_file(str(path), dict(a=torch.zeros(1)), META, overwrite=True)
    assert read_tensor_file(str(path)).tensors['a'] == 0


@pytest.mark.parametrize('name, error', [
    ('a.txt', ValueError),
    ('a', ValueError),
    ('folder.pth', FileExistsError),
])
def test_illegal_destination(tmp_path, name, error):
    (tmp_path / 'folder.pth').mkdir()
    with pytest.raises(error, match=name):
        write_tensor_file(
            str(tmp_path / name), dict(a=torch.ones(1)), META, overwrite=True)
    assert [p.name for p in tmp_path.rglob('*')] == ['folder.pth']


@pytest.mark.parametrize('name', ['a.pth', 'a.safetensors'])
def test_others_may_read_what_is_written(tmp_path, name):
    """As far as the umask says, as for each file."""
    path = tmp_path / name
    write_tensor_file(str(path), dict(a=torch.ones(2)), {})
    (tmp_path / 'plain').touch()
    assert path.stat().st_mode == (tmp_path / 'plain').stat().st_mode
