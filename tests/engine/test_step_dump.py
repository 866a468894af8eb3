"""What is written down of a step comes back as it was."""
import random

import numpy as np
import pytest
import torch
from mmpretrain.structures import DataSample

from dmae_mm.engine.step_dump import (plain, random_state, read_dump,
                                      set_random_state, unplain, write_dump)


def test_batches_survive_as_plain_values():
    sample = DataSample(metainfo=dict(
        img_path='a.png', scale=np.float32(0.5), box=np.arange(4)))
    sample.set_gt_label(3)
    back, = unplain(plain([sample]))
    assert type(back) is DataSample and back.img_path == 'a.png'
    assert back.gt_label.tolist() == [3] and back.scale == 0.5
    assert back.box.tolist() == [0, 1, 2, 3]
    with pytest.raises(TypeError, match='builtins.object has no plain form'):
        plain([object()])
    with pytest.raises(ValueError, match='no class of a data sample'):
        unplain(dict(__data_element__='mmengine.config:Config', metainfo={},
                     data={}))


def test_random_state_comes_back_from_a_file(tmp_path):
    def draw():
        return (random.random(), np.random.rand(), np.random.randn(),
                torch.rand(2).tolist())

    np.random.randn()  # the second of a pair is kept in the state
    path = str(tmp_path / 'dump.pth')
    write_dump(path, dict(state=random_state()))
    wanted = draw()
    assert draw() != wanted
    set_random_state(read_dump(path)['state'])
    assert draw() == wanted
