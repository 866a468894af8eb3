"""Fewer groups and a fused AdamW: the same training."""
import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmpretrain.registry import MODELS

import dmae_mm  # noqa: F401

from tests.toys.models import ROOT, TOY_MODEL

SCHEDULE = ROOT / 'configs' / '_base_' / 'schedules' / 'pretrain_100e.py'


def wrapper_cfg(merged):
    """That of the recipe, or as it would be without its options for speed."""
    cfg = Config.fromfile(SCHEDULE).optim_wrapper
    cfg.update(type='OptimWrapper', accumulative_counts=1)
    if not merged:
        cfg.pop('constructor')
        cfg.optimizer.pop('fused')
    return cfg


def build(merged):
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(TOY_MODEL)).train()
    return model, build_optim_wrapper(model, wrapper_cfg(merged))


def set_gradients(model, seed, scale=1.):
    """The same in all models: computed ones would differ by rounding, which
    Adam makes as large as any gradient where there should be none."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        if p.requires_grad:
            p.grad = scale * torch.randn(p.shape, generator=generator)


def train(model, wrapper, steps, first=0):
    for i in range(first, first + steps):
        set_gradients(model, i)
        wrapper.step()
        wrapper.zero_grad()


def decays(model, wrapper):
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: group['weight_decay']
        for group in wrapper.optimizer.param_groups
        for p in group['params']
    }


def options(wrapper, name):
    return [group[name] for group in wrapper.optimizer.param_groups]


def assert_close(ours, wanted):
    """To 1e-6, where a step changes weights by 2.4e-3."""
    for (name, mine), its in zip(ours.named_parameters(),
                                 wanted.parameters()):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-6, msg=name)


def test_two_groups_with_the_same_decays():
    model, wrapper = build(True)
    stock_model, stock = build(False)
    assert len(wrapper.optimizer.param_groups) == 2
    assert len(stock.optimizer.param_groups) == 86
    assert len(decays(model, wrapper)) == 86
    assert decays(model, wrapper) == decays(stock_model, stock)
    assert options(wrapper, 'fused') == [True, True]


def test_the_same_weights_after_training():
    (model, wrapper), (stock_model, stock) = build(True), build(False)
    train(model, wrapper, 5)
    train(stock_model, stock, 5)
    assert_close(model, stock_model)


@pytest.mark.parametrize('merged', [False, True])
def test_resuming(merged):
    """From a checkpoint with one group a parameter, or with two."""
    before, its = build(merged)
    train(before, its, 3)
    its.optimizer.param_groups[0]['lr'] = 1e-4
    model, wrapper = build(True)
    model.load_state_dict(before.state_dict())
    wrapper.load_state_dict(copy.deepcopy(its.state_dict()))
    assert options(wrapper, 'fused') == [True, True]
    assert options(wrapper, 'lr') == [1e-4, 2.4e-3]
    assert options(wrapper, 'weight_decay') == [0.05, 0.]
    for group in its.optimizer.param_groups:
        group['lr'] = 1e-4 if group['weight_decay'] else 2.4e-3
    train(before, its, 2, first=3)
    train(model, wrapper, 2, first=3)
    if merged:
        for mine, wanted in zip(model.parameters(), before.parameters()):
            assert torch.equal(mine, wanted)
    assert_close(model, before)


def test_the_config_decides_how_to_compute():
    """Also against the checkpoint: fused=False goes on without."""
    before, its = build(True)
    train(before, its, 1)
    cfg = wrapper_cfg(True)
    cfg.optimizer.fused = False
    wrapper = build_optim_wrapper(build(True)[0], cfg)
    wrapper.load_state_dict(its.state_dict())
    assert options(wrapper, 'fused') == [False, False]


def test_another_models_checkpoint_is_refused():
    _, wrapper = build(True)
    linear = torch.nn.Linear(2, 2)
    state = OptimWrapper(torch.optim.AdamW(linear.parameters())).state_dict()
    with pytest.raises(ValueError, match='different number of parameter'):
        wrapper.load_state_dict(state)


def test_loss_scaling():
    """As AmpOptimWrapper does it: an overflow skips the step."""
    (model, wrapper), (stock_model, stock) = build(True), build(False)
    scaler = torch.amp.GradScaler('cpu', init_scale=1024.)
    for i in range(3):
        scaler.scale(torch.zeros(()))
        set_gradients(model, i, 1024.)
        scaler.step(wrapper.optimizer)
        scaler.update()
    train(stock_model, stock, 3)
    assert_close(model, stock_model)

    before = [p.clone() for p in model.parameters()]
    set_gradients(model, 3, float('inf'))
    scaler.step(wrapper.optimizer)
    scaler.update()
    assert scaler.get_scale() == 512
    assert all(map(torch.equal, model.parameters(), before))
