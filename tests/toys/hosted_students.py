"""Distilled students that are no vision transformers, as files, and the
toolboxes' own configs that take them."""
import os.path as osp
from pathlib import Path
from typing import Dict, Optional

import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.utils import get_installed_path

# As a data_preprocessor of mmpretrain has them.
IMAGES = dict(
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)


def build(backbone: dict) -> nn.Module:
    """A backbone of mmpretrain, or of the package that its type names."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(dict(backbone))


def trained_weights(backbone: nn.Module) -> Dict[str, torch.Tensor]:
    """Weights and statistics that no initialisation gives, and of a size
    with which features stay finite in all stages."""
    generator = torch.Generator().manual_seed(0)

    def draw(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():  # an index, or a count of batches
            return tensor + 7 * (tensor.dim() == 0)
        values = torch.randn(tensor.shape, generator=generator)
        if name.endswith('running_var'):
            return 1 + values.abs()
        if tensor.dim() > 1:
            return values * (2 / tensor[0].numel())**.5
        return .1 * values + name.endswith('weight')

    return {
        name: draw(name, tensor)
        for name, tensor in backbone.state_dict().items()
    }


def write_student(path: Path,
                  backbone: dict,
                  meta: Optional[dict] = None) -> nn.Module:
    """Save a student as a runner does that has distilled it.

    Returns:
        nn.Module: The student, in eval mode.
    """
    student = build(backbone)
    weights = trained_weights(student)
    student.load_state_dict(weights)
    student.train(False)  # eval() returns None in mmpretrain
    cfg = Config(
        dict(
            model=dict(type='FeatureDistiller', backbone=backbone),
            data_preprocessor=IMAGES,
            default_scope='mmpretrain'))
    state = {f'backbone.{name}': each for name, each in weights.items()}
    state['distill_neck.projectors.0.weight'] = torch.ones(3, 3)
    torch.save(
        dict(
            state_dict=state,
            meta=dict(cfg=cfg.pretty_text) if meta is None else meta), path)
    return student


def stock(package: str, *parts: str) -> str:
    """Path of a config that mmdet or mmseg has installed."""
    return osp.join(get_installed_path(package), '.mim', 'configs', *parts)
