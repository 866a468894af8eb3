"""Initial weights, weight decay and learning rates of the ImageNet configs."""
import math

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmpretrain.registry import MODELS

from dmae_mm.engine.images_per_step import ImagesPerStep
from tests.toys.recipes import CONFIGS
from tests.toys.config_runs import shrink_student


def learning_rate_scaled(cfg: Config, world_size: int,
                         batch_size: int) -> float:
    """What --auto-scale-lr makes of the learning rate."""
    cfg.train_dataloader.batch_size = batch_size
    return ImagesPerStep(cfg, world_size).proportional_rate


def test_student_starts_as_its_control_does():
    """From the same seed, a run with a teacher and one without."""
    states = []
    for name in ('dmae/vit-s_dmae_in1k.py', 'baselines/vit-s_mae_in1k.py'):
        cfg = Config.fromfile(CONFIGS / name)
        shrink_student(cfg)
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        model.init_weights()
        states.append(model.state_dict())
    dmae, control = states
    assert len(dmae) - len(control) == 2  # weight and bias of the projector
    different = [
        name for name in control if not torch.equal(control[name], dmae[name])
    ]
    assert different == []


def test_initialisation():
    cfg = Config.fromfile(CONFIGS / 'dmae/vit-s_dmae_in1k.py')
    shrink_student(cfg)
    model = MODELS.build(cfg.model)
    model.init_weights()
    # Xavier's bound for 24 -> 72, for 24 -> 16 and, with a kernel of 8 x 8 x 3
    # seen as a matrix, for 192 -> 24.
    for weight, bound in (
        (model.backbone.layers[3].attn.qkv.weight, math.sqrt(6 / 96)),
        (model.neck.decoder_embed.weight, math.sqrt(6 / 40)),
        (model.backbone.patch_embed.projection.weight, math.sqrt(6 / 216)),
    ):
        assert 0.9 * bound < weight.abs().max() <= bound
    assert model.neck.decoder_blocks[0].attn.qkv.bias.abs().max() == 0
    assert model.backbone.ln1.weight.unique().tolist() == [1]
    # PyTorch's default for 24 -> 32: uniform up to 1 / sqrt(24), bias too.
    projector, = model.distill_neck.projectors
    assert 0.9 / math.sqrt(24) < projector.weight.abs().max(
    ) <= 1 / math.sqrt(24)
    assert 0 < projector.bias.abs().max() <= 1 / math.sqrt(24)


def test_weight_decay_in_pretraining():
    cfg = Config.fromfile(CONFIGS / 'dmae/vit-s_dmae_in1k.py')
    shrink_student(cfg)
    model = MODELS.build(cfg.model)
    wrapper = build_optim_wrapper(
        model,
        dict(optimizer=cfg.optim_wrapper.optimizer,
             paramwise_cfg=cfg.optim_wrapper.paramwise_cfg))
    names = {
        id(parameter): name
        for name, parameter in model.named_parameters()
    }
    decays = {
        names[id(parameter)]: group['weight_decay']
        for group in wrapper.optimizer.param_groups
        for parameter in group['params']
    }
    assert set(names.values()) - set(decays) == {
        'backbone.pos_embed', 'neck.decoder_pos_embed'
    }
    assert set(decays.values()) == {0., 0.05}
    for group in wrapper.optimizer.param_groups:
        assert group['lr'] == pytest.approx(1.5e-4 * 4096 / 256)
        assert group['betas'] == (0.9, 0.95)
    for name, decay in decays.items():
        if name.endswith('.bias') or '.ln' in name:
            assert decay == 0, name
        else:
            assert decay == 0.05, name
    assert decays['backbone.cls_token'] == decays['neck.mask_token'] == 0.05
    assert decays['distill_neck.projectors.0.weight'] == 0.05
    assert decays['distill_neck.projectors.0.bias'] == 0
    assert decays['neck.decoder_blocks.0.ln1.weight'] == 0
    # Encoder: CLS, patches and 4 weights a block; decoder: mask token,
    # embedding, prediction and 4 weights a block; the projector.
    assert sum(decay > 0
               for decay in decays.values()) == (2 + 4 * 4) + (3 + 2 * 4) + 1


def test_layer_decay_in_finetuning():
    cfg = Config.fromfile(CONFIGS / 'benchmarks/vit-s_finetune_in1k.py')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    wrapper = build_optim_wrapper(
        model,
        dict(constructor=cfg.optim_wrapper.constructor,
             optimizer=cfg.optim_wrapper.optimizer,
             paramwise_cfg=cfg.optim_wrapper.paramwise_cfg))
    groups = {
        group['param_name']: (group['lr'], group['weight_decay'])
        for group in wrapper.optimizer.param_groups
    }
    assert len(groups) == len(list(model.parameters()))
    lowest = pytest.approx(4.751e-5, rel=1e-3)  # 2e-3 * 0.75^13
    assert groups['backbone.patch_embed.projection.weight'] == (lowest, 0.05)
    assert groups['backbone.patch_embed.projection.bias'] == (lowest, 0)
    assert groups['backbone.cls_token'] == (lowest, 0)
    assert groups['backbone.pos_embed'] == (lowest, 0)
    assert groups['backbone.layers.0.attn.qkv.weight'] == (pytest.approx(
        2e-3 * 0.75**12), 0.05)
    assert groups['backbone.layers.11.attn.qkv.weight'] == (
        pytest.approx(1.5e-3), 0.05)
    assert groups['backbone.layers.11.ln1.weight'] == (pytest.approx(1.5e-3),
                                                       0)
    assert groups['backbone.ln2.weight'] == (pytest.approx(2e-3), 0)
    assert groups['head.fc.weight'] == (pytest.approx(2e-3), 0.05)
    assert groups['head.fc.bias'] == (pytest.approx(2e-3), 0)


@pytest.mark.parametrize(
    'name, num_gpus, batch_size, learning_rate',
    [
        # 4 batches are accumulated: 4096, 512, 256 and 128 images a step.
        ('dmae/vit-s_dmae_in1k.py', 8, 128, 2.4e-3),
        ('dmae/vit-s_dmae_in1k.py', 1, 128, 3e-4),
        ('dmae/vit-s_dmae_in1k.py', 1, 64, 1.5e-4),
        ('baselines/vit-b_mae_in1k.py', 2, 16, 7.5e-5),
        ('benchmarks/vit-s_finetune_in1k.py', 8, 128, 2e-3),
        ('benchmarks/vit-s_finetune_in1k.py', 1, 256, 5e-4),
        ('benchmarks/vit-s_linear_in1k.py', 8, 2048, 6.4),
        ('benchmarks/vit-s_linear_in1k.py', 1, 256, 0.1),
    ])
def test_auto_scale_lr(name, num_gpus, batch_size, learning_rate):
    cfg = Config.fromfile(CONFIGS / name)
    assert cfg.auto_scale_lr.enable is False
    assert learning_rate_scaled(cfg, num_gpus,
                                batch_size) == pytest.approx(learning_rate)
