"""All of a training checkpoint comes back, and nothing that it calls."""
import argparse
import os
import pathlib
import pickle
import random
import zipfile
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer, MessageHub

from dmae_mm.weights.safe_load import (RefusedFile, load_training_checkpoint,
                                       never_unpickle)
from tests.toys.checkpoints import with_names_of_numpy_1
from tests.toys.hostile import PAYLOADS, Call

SHARED = (np.arange(3), )
WEIGHTS = OrderedDict(weight=torch.arange(3.))
WEIGHTS._metadata = OrderedDict({'': dict(version=1)})
CONTENT = dict(
    state_dict=WEIGHTS,
    optimizer=dict(state={0: dict(step=torch.tensor(1.))}),
    floats=[np.float64(.1), np.float32(.1), np.int64(-3), np.bool_(True)],
    text=[np.str_('ab'), np.str_(''), np.bytes_(b'c')],
    numpy=np.random.RandomState(0).get_state(),
    python=random.Random(0).getstate(),
    torch=torch.get_rng_state(),
    swapped=np.arange(6, dtype='>i2').reshape(2, 3),
    by_columns=np.arange(6.).reshape(2, 3).T,
    empty=np.zeros((0, 3)),
    scalar=np.array(3),
    texts=np.array(['a', 'bcd']),
    objects=np.array([['a', None], [(np.int64(1), ), SHARED]], dtype=object),
    shared=[SHARED, SHARED],
    dtype=np.dtype('float32'),
    command_line=argparse.Namespace(lr=np.float64(.1), nested=SHARED),
    others=[slice(1, 2), frozenset([1]), {1, 2}, b'', b'bytes', 1 << 70,
            complex(1, 2), Counter('aab'), torch.Size([1]), torch.float16])


def loaded(path, content, rewrite=lambda path: None):
    torch.save(content, path)
    rewrite(path)
    return load_training_checkpoint(str(path), 'file.pth')


def assert_same(ours, theirs):
    assert type(ours) is type(theirs)
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for name in theirs:
            assert_same(ours[name], theirs[name])
    elif isinstance(theirs, (list, tuple)):
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    elif isinstance(theirs, np.ndarray):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        assert ours.flags.f_contiguous == theirs.flags.f_contiguous
        assert ours.flags.writeable
        assert_same(ours.tolist(), theirs.tolist())
    elif isinstance(theirs, torch.Tensor):
        assert torch.equal(ours, theirs)
    elif isinstance(theirs, (argparse.Namespace, HistoryBuffer)):
        assert_same(vars(ours), vars(theirs))
    else:
        assert ours == theirs


@pytest.mark.parametrize('rewrite', [lambda path: None,
                                     with_names_of_numpy_1],
                         ids=['numpy 2', 'numpy 1'])
def test_everything_comes_back(tmp_path, rewrite):
    ours = loaded(tmp_path / 'file.pth', CONTENT, rewrite)
    assert_same(ours, CONTENT)
    assert ours['shared'][0] is ours['shared'][1] is ours['objects'][1, 1]
    assert ours['state_dict']._metadata == WEIGHTS._metadata
    # What follows from a random state is the same.
    generator = np.random.RandomState(1)
    generator.set_state(ours['numpy'])
    assert generator.rand() == np.random.RandomState(0).rand()


def test_histories_go_on(tmp_path):
    """MMEngine writes all methods of the class beside each."""
    history = HistoryBuffer([1., 2.5], [1, 3], max_length=10)
    content = dict(log_scalars=OrderedDict(loss=history, new=HistoryBuffer()))
    theirs = pickle.loads(pickle.dumps(content))
    before = dict(HistoryBuffer._statistics_methods)
    ours = loaded(tmp_path / 'file.pth', content)
    assert_same(ours, theirs)
    ours = ours['log_scalars']['loss']
    ours.update(4., 2)
    assert ours.mean() == pytest.approx((1 + 2.5 + 4) / 6)
    assert ours.statistics('max', 2) == 4
    assert HistoryBuffer._statistics_methods == before


def test_a_file_cannot_change_the_methods_of_histories(tmp_path):

    class Lying:

        def __reduce__(self):
            return HistoryBuffer, (), dict(
                _log_history=np.array([1.]),
                _count_history=np.array([1]),
                statistics_methods=dict(mean='gone'))

    ours = loaded(tmp_path / 'file.pth', Lying())
    assert ours.statistics('mean') == 1.


def test_what_older_versions_wrote(tmp_path):
    """A message hub itself, options as a config, paths and versions."""
    hub = MessageHub('a run')
    hub.update_scalar('loss', 2.)
    hub.update_info('lr', np.float64(.1))
    ours = loaded(
        tmp_path / 'file.pth',
        dict(message_hub=hub, cfg=ConfigDict(a=dict(b=[1])),
             path=pathlib.Path('a/b'), version=torch.__version__))
    other = MessageHub('another')
    other.load_state_dict(ours['message_hub'])
    assert other.get_scalar('loss').current() == 2.
    assert other.get_info('lr') == .1
    assert ours['cfg'] == dict(a=dict(b=[1]))
    assert ours['path'] == pathlib.PurePosixPath('a/b')
    assert ours['version'] == str(torch.__version__)


def test_lists_that_contain_themselves(tmp_path):
    content = [np.arange(2)]
    content.append(content)
    ours = loaded(tmp_path / 'file.pth', content)
    assert ours[1] is ours and ours[0].tolist() == [0, 1]


@pytest.mark.parametrize('name', PAYLOADS)
@pytest.mark.parametrize('wrap', [
    lambda payload: [payload],
    lambda payload: dict(message_hub=argparse.Namespace(a=payload)),
    lambda payload: np.array([payload, 1], dtype=object),
    lambda payload: OrderedDict({('a', ): {'b': (payload, )}}),
], ids=['list', 'namespace', 'array', 'tuple'])
def test_calls_are_refused(tmp_path, name, wrap):
    marker = tmp_path / 'ran'
    with pytest.raises(RefusedFile) as error:
        loaded(tmp_path / 'file.pth', wrap(PAYLOADS[name](marker)))
    assert 'file.pth is refused: it asks for ' in str(error.value)
    assert name in str(error.value).split(', and building')[0]
    assert not marker.exists()


@pytest.mark.parametrize('call, name', [
    (Call(getattr, np.ndarray, 'tofile'), 'builtins.getattr'),
    (Call(getattr, argparse.Namespace, '__init__'), 'builtins.getattr'),
    (Call(bytes, 1 << 40), 'builtins.bytes'),
    (Call(np.dtype, 'V8'), 'numpy.dtype'),
    (np.zeros(2, 'f8,O'), 'numpy.dtype'),
    (np.array(['2026-01-01'], 'M8[D]'), 'numpy.dtype'),
    (Call(np._core.multiarray._reconstruct, slice, (0, ), b'b'),
     'numpy._core.multiarray._reconstruct'),
    (Call(np._core.multiarray.scalar, 'f8', b'12345678'), 'numpy.dtype'),
    (Call(np._core.multiarray.scalar, np.dtype('O'), [1]),
     'numpy._core.multiarray.scalar'),
    (Call(np.load, 'file.npy', None, True), 'numpy.load'),
    (Call(torch.load, 'file.pth'), 'torch.serialization.load'),
])
def test_known_names_do_only_what_they_are_known_for(tmp_path, call, name):
    with pytest.raises(RefusedFile, match='is refused: it asks for ') as error:
        loaded(tmp_path / 'file.pth', dict(a=call))
    assert name in str(error.value)


@pytest.mark.parametrize('shape, data', [((3, ), bytes(16)),
                                         ((1, ), bytes(16)),
                                         ((1 << 60, ), b'')])
def test_arrays_whose_bytes_are_others(tmp_path, shape, data):

    class Lying:

        def __reduce__(self):
            return (np._core.multiarray._reconstruct,
                    (np.ndarray, (0, ), b'b'),
                    (1, shape, np.dtype('f8'), False, data))

    with pytest.raises(RefusedFile, match='is damaged, incomplete or'):
        loaded(tmp_path / 'file.pth', [Lying()])


def test_a_dtype_cannot_be_told_to_hold_objects(tmp_path):
    """NumPy itself would follow numbers as if they were addresses."""

    class Lying:

        def __reduce__(self):
            return np.dtype, ('f8', False, True), (3, '<', None, None, None,
                                                   -1, -1, 63)

    ours = loaded(tmp_path / 'file.pth', [Lying()])
    assert ours == [np.dtype('f8')] and not ours[0].hasobject


def test_a_nesting_without_end(tmp_path):
    path, depth = tmp_path / 'file.pth', 100_000
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr(
            'file/data.pkl',
            b'\x80\x02' + b']' * depth + b'a' * (depth - 1) + b'.')
        archive.writestr('file/version', b'3\n')
    with pytest.raises(RefusedFile, match=r'cannot be read \(RecursionError'):
        load_training_checkpoint(str(path), 'file.pth')


def test_the_switch_of_torch_is_put_back(monkeypatch):
    names = ('TORCH_FORCE_WEIGHTS_ONLY_LOAD',
             'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD')
    for before in (('1', None), (None, '1'), (None, None)):
        for name, value in zip(names, before):
            monkeypatch.delenv(name, raising=False)
            if value:
                monkeypatch.setenv(name, value)
        with pytest.raises(KeyError), never_unpickle():
            assert os.environ[names[0]] == '1' and names[1] not in os.environ
            raise KeyError
        assert tuple(map(os.environ.get, names)) == before
