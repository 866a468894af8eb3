"""Models, checkpoints of them, and what the tests do with these."""
import ast
import functools
from pathlib import Path
from typing import Dict, Tuple

import pytest
import timm
import torch
import torch.nn as nn
from mmpretrain.registry import MODELS

from dmae_mm.weights import export_checkpoint, read_tensor_file

from tests.toys.models import STUDENT

# Like nobody else's.
MEAN, STD = [51., 102., 153.], [25.5, 51., 76.5]
TOY = dict(arch=STUDENT, img_size=32, patch_size=8)
BACKBONES = {
    'MAEViT':
    dict(TOY, type='MAEViT'),
    'VisionTransformer':
    dict(TOY, type='VisionTransformer'),
    'layer scale':
    dict(TOY, type='VisionTransformer', layer_scale_init_value=.1),
    'pre-norm':
    dict(TOY, type='VisionTransformer', pre_norm=True),
    'no CLS':
    dict(TOY, type='VisionTransformer', with_cls_token=False, out_type='raw'),
    'no final norm':
    dict(TOY, type='VisionTransformer', final_norm=False),
    'average pooling':
    dict(
        TOY, type='VisionTransformer', out_type='avg_featmap',
        final_norm=False),
    'no bias, gray, oblong':
    dict(
        TOY, type='VisionTransformer', qkv_bias=False, in_channels=1,
        img_size=(32, 16)),
    'oblong patches':
    dict(TOY, type='VisionTransformer', patch_size=(8, 4)),
    'odd MLP':
    dict(
        TOY, type='VisionTransformer',
        arch=dict(STUDENT, embed_dims=22, feedforward_channels=49)),
    'DeiT3':
    dict(TOY, type='DeiT3'),
    'DeiT3 without layer scale':
    dict(TOY, type='DeiT3', use_layer_scale=False),
}


def build(cfg: dict) -> nn.Module:
    """A model in which every weight makes a difference."""
    model = MODELS.build(cfg)
    model.eval()
    generator = torch.Generator().manual_seed(0)
    for tensor in model.state_dict().values():
        tensor.copy_(
            torch.randn(tensor.shape, generator=generator) * .3 + .1)
    for block in model.layers if cfg['type'] == 'DeiT3' else []:
        block.ln2.load_state_dict(block.ln1.state_dict())  # it ignores ln2
    return model


def write(folder: Path, cfg: dict, **beside) -> Tuple[str, str, nn.Module]:
    """Config and checkpoint of a backbone, and the backbone."""
    config, checkpoint = folder / 'config.py', folder / 'source.pth'
    channels = cfg.get('in_channels', 3)
    images = dict(mean=MEAN[:channels], std=STD[:channels], to_rgb=True)
    config.write_text(f'model = dict(type="MAE", backbone={cfg!r}, '
                      f'data_preprocessor={images!r})')
    backbone = build(cfg)
    weights = {f'backbone.{k}': v for k, v in backbone.state_dict().items()}
    torch.save(dict(state_dict=weights, **beside), checkpoint)
    return str(config), str(checkpoint), backbone


def refused(*args, **kwargs) -> str:
    """The error of ``export_checkpoint``, which is one line."""
    with pytest.raises((ValueError, OSError)) as error:
        export_checkpoint(*map(str, args), **kwargs)
    assert '\n' not in str(error.value)
    return str(error.value)


def run(usage: str) -> nn.Module:
    """The model that a line for timm builds."""
    names = dict(timm=timm, torch=torch, functools=functools)
    return eval(usage, names).eval()


def timm_arguments(usage: str) -> Tuple[str, dict]:
    """Name and keyword arguments in a line for timm, but for the file."""
    call = ast.parse(usage).body[0].value
    kwargs = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
    del kwargs['pretrained'], kwargs['pretrained_cfg_overlay']
    return ast.literal_eval(call.args[0]), kwargs


def images_for(backbone: nn.Module) -> torch.Tensor:
    return torch.rand(2, backbone.patch_embed.projection.in_channels,
                      *backbone.img_size)


def tokens_of(backbone: nn.Module, images: torch.Tensor) -> torch.Tensor:
    backbone.out_type, backbone.out_indices = 'raw', [backbone.num_layers - 1]
    masked = dict(mask=None) if type(backbone).__name__ == 'MAEViT' else {}
    return backbone(images, **masked)[0].detach()


def state_of(path) -> Dict[str, torch.Tensor]:
    return read_tensor_file(str(path)).tensors


def assert_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def assert_equal(tensors: dict, wanted: dict) -> None:
    assert tensors.keys() == wanted.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, wanted[name]), name
        assert tensor.dtype == wanted[name].dtype, name
