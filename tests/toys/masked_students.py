"""Toy students of SimMIM and SparK: images of 64 px, 2 x 2 regions."""
import copy

import torch
from mmpretrain.registry import MODELS, TRANSFORMS
from mmpretrain.structures import DataSample

from dmae_mm.host import quietly

from .models import TEACHER

BN = dict(type='SparseBatchNorm2d')
SIMMIM = dict(
    backbone=dict(
        type='SimMIMSwinTransformer',
        arch=dict(
            embed_dims=8, depths=[2, 1, 1, 1], num_heads=[1, 2, 2, 2]),
        img_size=64,
        drop_path_rate=0.,
        stage_cfgs=dict(block_cfgs=dict(window_size=2))),
    neck=dict(type='SimMIMLinearDecoder', in_channels=64, encoder_stride=32),
    head=dict(
        type='SimMIMHead',
        patch_size=4,
        loss=dict(type='PixelReconstructionLoss', criterion='L1', channel=3)))
_SPARK = dict(
    neck=dict(
        type='SparKLightDecoder',
        feature_dim=32,
        upsample_ratio=32,
        norm_cfg=dict(type='BN')),
    head=dict(
        type='SparKPretrainHead',
        loss=dict(type='PixelReconstructionLoss', criterion='L2')),
    input_size=64)
RESNET = dict(
    _SPARK,
    backbone=dict(
        type='SparseResNet',
        depth=18,
        stem_channels=8,
        base_channels=8,
        out_indices=(0, 1, 2, 3),
        norm_cfg=BN),
    enc_dec_norm_cfg=BN,
    enc_dec_norm_dim=64)
CONVNEXT = dict(
    _SPARK,
    backbone=dict(
        type='SparseConvNeXt',
        arch=dict(depths=[1, 1, 1, 1], channels=[8, 16, 32, 64]),
        layer_scale_init_value=0.5,
        out_indices=(0, 1, 2, 3),
        gap_before_output=False),
    enc_dec_norm_cfg=dict(type='SparseLN2d', eps=1e-6),
    enc_dec_norm_dim=64)
STUDENTS = dict(SimMIM=SIMMIM, SparKResNet=RESNET, SparKConvNeXt=CONVNEXT)
# Of the same 64 px: 4 x 4 patches, 2 x 2 in each region.
TOY_TEACHER = dict(
    type='MMPretrainTeacher',
    backbone=dict(type='MAEViT', arch=TEACHER, img_size=64, patch_size=16),
    checkpoint=None,
    allow_random=True)


def masked_student(name: str, **options) -> dict:
    """Config of a DMAE, by default with a teacher, to change at will."""
    return copy.deepcopy(
        dict(
            STUDENTS[name],
            type='DMAE',
            teacher=TOY_TEACHER,
            aligned_layers=[(-1, 3)]) | options)


def stock(name: str) -> dict:
    """Config of mmpretrain's own algorithm."""
    return copy.deepcopy(
        dict(STUDENTS[name], type='SimMIM' if name == 'SimMIM' else 'SparK'))


def build(cfg: dict, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = MODELS.build(cfg)
    with quietly():
        model.init_weights()
    return model


def batch(number: int = 3, seed: int = 0, mask_patch_size: int = 32,
          mask_ratio: float = 0.5) -> tuple:
    """Images of 64 px and masks of SimMIM's generator."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(number, 3, 64, 64, generator=generator)
    generate = TRANSFORMS.build(
        dict(
            type='SimMIMMaskGenerator',
            input_size=64,
            mask_patch_size=mask_patch_size,
            model_patch_size=4,
            mask_ratio=mask_ratio))
    samples = []
    for _ in range(number):
        mask = torch.from_numpy(generate(dict())['mask'])
        samples.append(DataSample())
        samples[-1].set_field(mask, 'mask')
    return images, samples
