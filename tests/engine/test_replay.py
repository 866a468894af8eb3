"""A dumped step is repeated, and its first bad module is named."""
import copy

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS

from dmae_mm.engine.replay import Replay
from dmae_mm.engine.step_dump import read_dump
from tests.toys.planted_nan import planted, stop_in_sixth, train

CPU = torch.device('cpu')


@pytest.fixture(scope='module')
def stopped(photos, tmp_path_factory):  # noqa: F811
    return stop_in_sixth(photos, tmp_path_factory.mktemp('stopped'))


@HOOKS.register_module(force=True)
class SpoilHead(Hook):
    """One loss of the 3rd step becomes infinite, the others stay."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 2:
            runner.model.head.loss_module.register_forward_hook(
                lambda module, args, loss: loss * torch.inf)


def test_finite_losses_are_repeated_bit_for_bit(photos,  # noqa: F811
                                                tmp_path):
    """The same masks are drawn, whatever has been drawn in between."""
    cfg = planted(photos, tmp_path, [], 1)
    cfg.custom_hooks.append(dict(type='SpoilHead'))
    runner, _, message = train(cfg, stops=True)
    assert 'loss_recon=inf in iteration 3' in message
    dump = read_dump(str(tmp_path / 'nonfinite_iter_3_rank_0.pth'))
    said = []
    assert not Replay(copy.deepcopy(runner.cfg), dump, CPU, said.append).run()
    lines = {line.split()[0]: line for line in said if ' ' in line.strip()}
    assert lines['loss_recon'].endswith('inf   differs')
    assert 'differs' not in lines['loss_align_s2_t3']
    assert '    0 parameters have gradients that are not finite' in said


def test_a_gradient_that_is_not_finite_is_found(stopped):
    work_dir, runner, *_ = stopped
    dump = read_dump(str(work_dir / 'nonfinite_iter_6_rank_0.pth'))
    for image in dump['batch']['inputs']:
        image.nan_to_num_(nan=0.0)
    dump['terms'] = dict(loss=0.5)
    said = []
    replay = Replay(copy.deepcopy(runner.cfg), dump, CPU, said.append)
    block = replay.model.backbone.layers[1]

    class Spoil(torch.autograd.Function):

        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return torch.full_like(grad, torch.inf)

    block.register_forward_hook(lambda *args: Spoil.apply(args[-1]))
    assert not replay.run()  # another loss than 0.5
    said = '\n'.join(said)
    assert ('The first that is not finite: at the output of backbone.layers.1'
            in said)


def test_spoiled_weights_are_named(stopped):
    work_dir, runner, *_ = stopped
    dump = read_dump(str(work_dir / 'nonfinite_iter_6_rank_0.pth'))
    dump['weights']['backbone.layers.0.ln1.weight'][0] = np.inf
    said = []
    assert Replay(copy.deepcopy(runner.cfg), dump, CPU, said.append).run()
    assert ('1 weights are not finite before the step, the first is '
            'backbone.layers.0.ln1.weight') in '\n'.join(said)


def test_exploded_weights_are_told_by_their_size(stopped):
    """As after a step with far too large a learning rate."""
    work_dir, runner, *_ = stopped
    dump = read_dump(str(work_dir / 'nonfinite_iter_6_rank_0.pth'))
    for image in dump['batch']['inputs']:
        image.nan_to_num_(nan=0.0)
    dump['weights']['backbone.cls_token'].fill_(1e30)
    dump['weights']['backbone.layers.0.ln1.weight'].fill_(-1e20)
    said = []
    Replay(copy.deepcopy(runner.cfg), dump, CPU, said.append).run()
    line, = (line for line in said if line.startswith('The first that is'))
    assert line.endswith(
        'the output of backbone.layers.0.ln1 (LayerNorm), whose input is '
        'finite, up to 1e+30; the largest finite weight is 1e+30, in '
        'backbone.cls_token')
