"""Pre-training configs against the paper's table, in literal numbers."""
from pathlib import Path

import mmpretrain
import pytest
import torch
import yaml

from .recipes import (BASELINES, DMAE, MASKS, PRETRAINING, SIZES, TEACHERS,
                      build, load, shape_of)


def visible_patches(backbone):
    patches, _, _ = backbone.random_masking(
        torch.zeros(1, 196, 1), backbone.mask_ratio)
    return patches.shape[1]


@pytest.mark.parametrize('name', DMAE)
def test_dmae_model(name):
    size, mask = DMAE[name]
    teacher, family, digest, student_block, teacher_block = TEACHERS[size]
    mask_ratio, num_visible = MASKS[mask]
    model = build(name)

    assert shape_of(model.backbone) == SIZES[size]
    assert model.backbone.patch_resolution == (14, 14)
    assert model.backbone.mask_ratio == mask_ratio
    assert visible_patches(model.backbone) == num_visible

    decoder = model.neck
    assert decoder.decoder_embed.out_features == 512
    assert len(decoder.decoder_blocks) == 8
    assert {block.attn.num_heads for block in decoder.decoder_blocks} == {16}
    assert decoder.decoder_blocks[0].ffn.layers[0][0].out_features == 2048
    assert decoder.decoder_pred.out_features == 768
    assert model.head.norm_pix is False
    assert type(model.head.loss_module.penalty) is torch.nn.MSELoss

    width, depth, heads, _ = SIZES[teacher]
    kept = shape_of(model.teacher.network)[:3]
    assert kept == (width, teacher_block + 1, heads)
    assert model.teacher.num_layers == depth
    assert model.teacher.checkpoint == (
        'https://mmassets.onedl.ai/mmselfsup/1.x/mae/'
        f'{family}_8xb512-fp16-coslr-1600e_in1k/'
        f'{family}_8xb512-fp16-coslr-1600e_in1k_20220825-{digest}.pth')

    assert model.teacher.aligned_blocks == (teacher_block, )
    assert model.loss_names == [
        f'loss_align_s{student_block}_t{teacher_block}'
    ]
    projector, = model.distill_neck.projectors
    assert type(projector) is torch.nn.Linear
    assert projector.weight.shape == (width, SIZES[size][0])
    assert model.distill_loss.criterion == 'L1'
    assert model.distill_loss.normalize is True
    assert model.distill_loss.loss_weight == 1


@pytest.mark.parametrize('name', BASELINES)
def test_baseline_model(name):
    model = build(name)
    assert shape_of(model.backbone) == SIZES[BASELINES[name]]
    assert visible_patches(model.backbone) == 49
    assert model.teacher is None


@pytest.mark.parametrize('name', [*PRETRAINING, *BASELINES])
def test_pretraining_recipe(name):
    cfg = load(name)
    loader = cfg.train_dataloader
    wrapper = cfg.optim_wrapper
    assert loader.batch_size == 128
    assert wrapper.accumulative_counts == 4
    assert wrapper.type == 'AmpOptimWrapper'
    # The dynamic loss scale is its default. Unnamed, the type alone has to
    # be changed to train without an accelerator.
    assert 'loss_scale' not in wrapper
    assert wrapper.optimizer.to_dict() == dict(type='AdamW',
                                               lr=pytest.approx(2.4e-3),
                                               betas=(0.9, 0.95),
                                               weight_decay=0.05,
                                               fused=True)
    assert wrapper.constructor == 'MergedGroupsConstructor'
    warmup, cosine = cfg.param_scheduler
    assert (warmup.type, warmup.begin, warmup.end) == ('LinearLR', 0, 20)
    assert (cosine.type, cosine.begin, cosine.end, cosine.T_max,
            cosine.eta_min) == ('CosineAnnealingLR', 20, 100, 80, 0)
    assert warmup.convert_to_iter_based and cosine.convert_to_iter_based
    assert cfg.train_cfg.max_epochs == 100

    pipeline = cfg.train_dataloader.dataset.pipeline
    assert [step.type for step in pipeline] == [
        'SeedSample', 'LoadImageOrSkip', 'FastRandomResizedCrop', 'PackInputs'
    ]
    assert pipeline[2].to_dict() == dict(type='FastRandomResizedCrop',
                                         scale=224,
                                         crop_ratio_range=(0.2, 1.0),
                                         interpolation='bicubic',
                                         flip_prob=0.5)
    assert loader.collate_fn.type == 'default_collate'
    assert loader.persistent_workers is True
    assert loader.sampler.type == 'SeededSampler'
    assert cfg.train_cfg.type == 'ResumableTrainLoop'
    assert cfg.default_hooks.checkpoint.type == 'AtomicCheckpointHook'
    assert [hook.type for hook in cfg.custom_hooks] == [
        'ExactResumeHook', 'PreemptionHook', 'TeacherHook',
        'PretrainedBackboneHook', 'SkippedImagesHook'
    ]
    assert cfg.default_hooks.runtime_info.to_dict() == dict(
        type='FiniteLossHook', max_skips=0)
    assert cfg.custom_imports.imports == ['dmae_mm']
    assert cfg.default_scope == 'mmpretrain'
    assert cfg.randomness.seed == 0
    assert cfg.resume is False


@pytest.mark.parametrize('model, family', [('vit-s', 'mae_vit-base-p16'),
                                           ('vit-b', 'mae_vit-large-p16')])
def test_teacher_is_the_one_in_mmpretrains_model_zoo(model, family):
    """Same file; where it is hosted depends on mmpretrain's version."""
    index = Path(mmpretrain.__file__).parent / '.mim/configs/mae/metafile.yml'
    weights, = (entry['Weights']
                for entry in yaml.safe_load(index.read_text())['Models']
                if entry['Name'] == f'{family}_8xb512-amp-coslr-1600e_in1k')
    ours = load(f'dmae/{model}_dmae_in1k.py').model.teacher.checkpoint
    assert ours.split('/')[-1] == weights.split('/')[-1]
