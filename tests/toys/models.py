"""Toy models: 16 patches of 8 px; classifiers have five classes."""
import copy
from pathlib import Path

import torch
from mmpretrain.registry import MODELS

ROOT = Path(__file__).parents[2]

# 16 patches of 8 px; the student is 4 blocks, 24 wide, the teacher 6 and 32.
STUDENT = dict(
    embed_dims=24, num_layers=4, num_heads=2, feedforward_channels=96)
TEACHER = dict(
    embed_dims=32, num_layers=6, num_heads=2, feedforward_channels=128)
NARROW_RESNET = dict(
    type='ResNet', depth=18, base_channels=8, stem_channels=8)
DISTILLER = dict(
    type='FeatureDistiller',
    backbone=NARROW_RESNET,
    teacher=dict(
        type='MMPretrainTeacher',
        backbone=dict(
            type='VisionTransformer', arch=TEACHER, img_size=32,
            patch_size=8),
        allow_random=True))
TOY_MODEL = dict(
    type='DMAE',
    backbone=dict(
        type='MAEViT', arch=STUDENT, img_size=32, patch_size=8,
        mask_ratio=0.75),
    neck=dict(
        type='MAEPretrainDecoder',
        num_patches=16,
        patch_size=8,
        embed_dim=24,
        decoder_embed_dim=16,
        decoder_depth=2,
        decoder_num_heads=2),
    head=dict(
        type='MAEPretrainHead',
        patch_size=8,
        loss=dict(type='PixelReconstructionLoss', criterion='L2')),
    teacher=dict(
        type='MMPretrainTeacher',
        backbone=dict(type='MAEViT', arch=TEACHER, img_size=32, patch_size=8),
        checkpoint=None,
        allow_random=True),
    aligned_layers=[(2, 3)])
# Two teachers of other widths; the second sees more of an image.
TWO_TEACHERS = dict(
    mae=dict(teacher=TOY_MODEL['teacher'], aligned_layers=[(1, 1), (2, 3)]),
    dino=dict(
        teacher=dict(
            type='MMPretrainTeacher',
            backbone=dict(
                type='VisionTransformer',
                arch=dict(
                    embed_dims=16,
                    num_layers=4,
                    num_heads=2,
                    feedforward_channels=64),
                img_size=32,
                patch_size=8),
            checkpoint=None,
            allow_random=True),
        aligned_layers=[(3, -1)],
        distill_neck=dict(type='FeatureProjectionNeck', projector='mlp'),
        distill_loss=dict(
            type='FeatureAlignmentLoss', criterion='smooth_L1'),
        mask_ratio=0.5))
# With CrossAttentionDecoder in the place of the stock decoder.
LIGHT = dict(
    TOY_MODEL['neck'],
    type='CrossAttentionDecoder',
    predict_ratio=0.25)
# As a student, and as a teacher.
HIVIT_STUDENT = dict(
    type='MAEHiViT',
    arch=dict(embed_dims=24, depths=[1, 1, 8], num_heads=2),
    img_size=32,
    patch_size=8,
    inner_patches=4,
    mask_ratio=0.75)
HIVIT_TEACHER = dict(
    arch=dict(embed_dims=32, depths=[1, 1, 8], num_heads=2),
    img_size=32,
    patch_size=8,
    inner_patches=4)


def two_teachers(**changes) -> dict:
    """Config of a toy DMAE with two random teachers."""
    single = ('teacher', 'aligned_layers')
    return copy.deepcopy({
        key: value
        for key, value in TOY_MODEL.items() if key not in single
    } | dict(teachers=TWO_TEACHERS) | changes)


def classifier(arch=TEACHER, backbone=dict(), head=dict(), **parts) -> dict:
    """Config of a classifier of mmpretrain, by default the teacher's."""
    backbone = dict(
        type='VisionTransformer',
        arch=arch,
        img_size=32,
        patch_size=8,
        out_type='avg_featmap',
        final_norm=False) | backbone
    head = dict(
        type='LinearClsHead', num_classes=5,
        in_channels=arch['embed_dims']) | head
    return copy.deepcopy(
        dict(type='ImageClassifier', backbone=backbone, head=head) | parts)


RESNET = dict(
    type='ImageClassifier',
    backbone=NARROW_RESNET,
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=5, in_channels=64))


def randomize(module: torch.nn.Module) -> None:
    """Values of one size everywhere; running variances around one."""
    generator = torch.Generator().manual_seed(3)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and 'rope' not in name:
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(.2 * noise + ('running_var' in name))


def saved(path, model: dict):
    """A randomised classifier of the host in a file; itself, in eval."""
    host = MODELS.build(copy.deepcopy(model))
    randomize(host)
    torch.save(dict(state_dict=host.state_dict(), meta={}), path)
    host.train(False)
    return host


def student(**changes) -> dict:
    """Config of a toy student that a random teacher teaches logits."""
    return classifier(
        STUDENT,
        type='DistilledImageClassifier',
        teacher=dict(
            type='ClassifierTeacher', model=classifier(), allow_random=True),
        logit_loss=dict(type='LogitDistillationLoss')) | changes


def timm_student(**changes) -> dict:
    """Config of a student of timm that computes what that of TOY_MODEL does,
    with the same weights and eps of its norms."""
    return copy.deepcopy(
        dict(
            type='MaskedTimmViT',
            model_name='vit_tiny_patch16_224',
            img_size=32,
            model_kwargs=dict(
                patch_size=8, embed_dim=24, depth=4, num_heads=2),
            mask_ratio=0.75) | changes)
