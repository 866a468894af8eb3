import copy

import pytest
import torch
import torch.nn as nn
from hypothesis import given
from hypothesis import strategies as st

from dmae_mm.models.tokens import OutputRecorder, resolve_block


@pytest.mark.parametrize('index, num_layers, expected', [
    (0, 12, 0),
    (11, 12, 11),
    (-1, 12, 11),
    (-12, 12, 0),
    (0.75, 12, 8),
    (0.75, 24, 17),
    (0.25, 12, 2),
    (1.0, 12, 11),
    (0.75, 6, 3),
])
def test_resolve_block(index, num_layers, expected):
    assert resolve_block(index, num_layers, 'student') == expected


@pytest.mark.parametrize('index',
                         [12, -13, 0.0, -0.5, 1.01, 0.01, True, '8', None])
def test_blocks_that_do_not_exist(index):
    with pytest.raises(ValueError, match='teacher.*-12 to 11.*fraction'):
        resolve_block(index, 12, 'teacher')


@given(st.integers(1, 60), st.data())
def test_every_legal_index_resolves_into_range(num_layers, data):
    index = data.draw(
        st.integers(-num_layers, num_layers - 1)
        | st.floats(1 / num_layers, 1.0))
    assert 0 <= resolve_block(index, num_layers, 'student') < num_layers


class Net(nn.Module):

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))

    def forward(self, x):
        outputs = []
        for layer in self.layers:
            x = layer(x)
            outputs.append(x)
        return outputs


def test_records_in_the_order_asked_and_only_when_asked():
    net = Net()
    features = OutputRecorder([net.layers[i] for i in (2, 0, 2)])
    outputs, recorded = features.record(net, torch.ones(1, 2))
    assert [t is outputs[i] for t, i in zip(recorded, (2, 0, 2))] == [True] * 3
    net(torch.ones(1, 2))
    assert features._outputs is None


def test_nothing_is_kept_after_an_error():
    net = Net()
    features = OutputRecorder(net.layers[:1])
    with pytest.raises(RuntimeError):
        features.record(net, torch.ones(1, 3))
    assert features._outputs is None


def test_a_deep_copy_records_its_own_blocks():
    net = Net()
    net.features = OutputRecorder([net.layers[1]])
    twin = copy.deepcopy(net)
    outputs, (second, ) = twin.features.record(
        lambda x: (net(2 * x), twin(x))[1], torch.ones(1, 2))
    assert second is outputs[1]
    assert net.features._outputs is None
