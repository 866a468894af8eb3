"""Toy classifiers: 16 patches of 8 px, five classes."""
import copy

import torch
from mmpretrain.registry import MODELS

from tests.conftest import STUDENT, TEACHER


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
    backbone=dict(type='ResNet', depth=18, base_channels=8, stem_channels=8),
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
