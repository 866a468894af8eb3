"""What is written down of a step comes back as it was."""
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmpretrain.structures import DataSample

from dmae_mm.engine.step_dump import (Step, dump_step, plain, random_state,
                                      read_dump, set_random_state, unplain,
                                      write_dump)


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


def test_a_batch_that_cannot_be_written_hides_nothing(tmp_path):
    runner = SimpleNamespace(
        work_dir=str(tmp_path), seed=0, cfg=SimpleNamespace(filename='c.py'))
    step = Step(7, 1, 'batch 7 of 9', dict(lr=0.1), object(), random_state(),
                dict(loss=math.nan))
    path = str(tmp_path / 'dump.pth')
    said = dump_step(runner, torch.nn.Linear(1, 1), step, path)
    assert ('It is without the batch, because builtins.object has no plain '
            'form.') in said and path in said
    dump = read_dump(path)
    assert dump['batch'] is None and dump['images'] == []
    assert dump['iter'] == 7 and set(dump['weights']) == {'weight', 'bias'}
    assert 'The batch holds no file names' in step.summary()
