"""A trained backbone alone, for what only wants its features."""
import difflib
import os.path as osp

import torch
import torch.nn as nn
from mmengine.config import Config
from mmpretrain import list_models
from mmpretrain.apis.model import ModelHub
from mmpretrain.models.utils import SelfSupDataPreprocessor

from dmae_mm.weights import (TensorFile, backbone_state_dict,
                                 read_tensor_file)
from dmae_mm.host import build
from dmae_mm.messages import first_few, one_line
from dmae_mm.weights.misfits import strict_misfits

# For backbones that take images of any size, such as ResNet.
DEFAULT_IMG_SIZE = 224


class FeatureModel(nn.Module):
    """The backbone of a config with a checkpoint's weights.

    Decoder, head, teacher and neck are not built, so that no teacher's file
    is needed. The backbone's weights are all set from the checkpoint, or it
    is refused.

    Args:
        model (str): Path of a config of a pre-training method or classifier,
            or a name of mmpretrain's model zoo.
        checkpoint (str): Path or http(s) URL of its weights; nothing in it
            is executed.

    Attributes:
        backbone (nn.Module): The backbone, on the CPU.
        data_preprocessor (nn.Module): Normalises as the config says.
        file (TensorFile): What the checkpoint says about itself; its tensors
            are those of the whole file.
        parts (dict): The config's backbone and data preprocessor: what the
            features depend on, beside the weights.

    Raises:
        FileNotFoundError: If there is no such config or checkpoint.
        ValueError: If the model cannot be built, or the checkpoint is not
            exactly its backbone's.
        OSError: If a file cannot be read or fetched.
    """

    def __init__(self, model: str, checkpoint: str) -> None:
        super().__init__()
        self.parts = _read_parts(model)
        self.file: TensorFile = read_tensor_file(checkpoint)
        self.backbone = _build_backbone(self.parts['backbone'], model)
        load_strictly(self.backbone, self.file, model)
        normalise = self.parts['data_preprocessor']
        self.data_preprocessor = SelfSupDataPreprocessor(
            mean=normalise.get('mean'),
            std=normalise.get('std'),
            to_rgb=any(
                normalise.get(name, False)
                for name in ('to_rgb', 'bgr_to_rgb', 'rgb_to_bgr')))

    def to(self, device: torch.device) -> 'FeatureModel':
        """Move it; a data preprocessor has to be told by itself."""
        self.data_preprocessor.to(device)
        return super().to(device)


def image_size(backbone: nn.Module) -> int:
    """Height and width of the images that a backbone is made for.

    Args:
        backbone (nn.Module): A backbone of mmpretrain.

    Returns:
        int: In pixels; 224 for one that takes any size.

    Raises:
        ValueError: If they are not square.
    """
    holder = backbone if hasattr(backbone, 'img_size') else getattr(
        backbone, 'patch_embed', None)  # HiViT keeps it there
    size = getattr(holder, 'img_size', DEFAULT_IMG_SIZE)
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise ValueError(f'The model is made for images of {height} x {width} '
                         'pixels. Only square ones can be evaluated.')
    return height


def _read_parts(model: str) -> dict:
    """The sections of a config that say what the features are."""
    if osp.isfile(model):
        # Anything can go wrong in a config: it is Python.
        try:
            cfg = Config.fromfile(model)
        except Exception as error:
            raise ValueError(f'The config {model} cannot be read: '
                             f'{one_line(error)}') from None
    elif model.endswith('.py') or osp.dirname(model):
        raise FileNotFoundError(f'There is no config {model!r}.')
    else:
        try:
            cfg = ModelHub.get(model).config
        except ValueError:
            similar = difflib.get_close_matches(model, list_models(), 3)
            hint = (f'Did you mean {" or ".join(map(repr, similar))}?'
                    if similar else 'mmpretrain.list_models() lists the names')
            raise ValueError(
                f'{model!r} is neither a config file nor a name in '
                f"mmpretrain's model zoo. {hint}") from None
    section = cfg.get('model') or {}
    if not isinstance(section.get('backbone'), dict):
        raise ValueError(f'The config {model} has no model.backbone.')
    normalise = section.get('data_preprocessor') or cfg.get(
        'data_preprocessor') or {}
    return Config(
        dict(backbone=section['backbone'],
             data_preprocessor=normalise)).to_dict()


def _build_backbone(cfg: dict, model: str) -> nn.Module:
    backbone = build(cfg, f'model.backbone of {model}')
    # A classifier's backbone that hands out CLS alone has the patches too.
    if getattr(backbone, 'out_type', None) == 'cls_token' and 'raw' in getattr(
            backbone, 'OUT_TYPES', ()):
        backbone.out_type = 'raw'
    return backbone


def load_strictly(backbone: nn.Module, file: TensorFile, model: str) -> None:
    try:
        tensors, _ = backbone_state_dict(file.tensors)
    except ValueError as error:
        raise ValueError(f'{file.source}: {error}') from None
    problems = strict_misfits(tensors, backbone)
    if problems:
        raise ValueError(
            f'{file.source} is no checkpoint of model.backbone of {model}: '
            f'{first_few(problems, 5, "; ")}. Give the config that it was '
            'trained with; each run leaves it in its work dir.')
    backbone.load_state_dict(tensors)
