"""Which plain vision transformers of timm have the shapes of a file?"""
import functools
import re
from dataclasses import dataclass, field
from math import prod
from typing import Any, Dict, List, Optional, Tuple

import timm
import torch
import torch.nn as nn

from dmae_mm.models.timm_vits import (convert_weights, create_model,
                                      num_positions)
from dmae_mm.models.tokens import OutputRecorder
from dmae_mm.weights import TensorFile, backbone_state_dict, backbone_to_timm
from dmae_mm.weights.formats import TranslatedFile
from dmae_mm.weights.misfits import num_blocks
from dmae_mm.weights.names import layout_of, timm_model_state_dict
from dmae_mm.weights.origin import origin_of, square
from dmae_mm.weights.positions import other_heads
from dmae_mm.weights.tensor_file import Tensors

from .foreign_details import settle_details
from .teacher import fixed_seed

# timm's modules that define them.
_MODULES = ('vision_transformer', 'deit', 'eva')
_EMBEDDING = 'patch_embed.proj.weight'
_FIRST_BLOCK = 'blocks.0.'
_HEADS = ('head.', 'head_dist.', 'attn_pool.')
_NORMS = ('norm.', 'fc_norm.')
# How much features may differ, relative to the largest, that are the same.
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class TimmMatch:
    """An architecture of timm that a file fits.

    Attributes:
        name (str): Its name, without tag.
        features (torch.Tensor): What its first block makes of an image with
            the weights of the file, (1, P + L, C).
        model_kwargs (dict): Arguments of ``timm.create_model`` for the size
            of the images, where it is not the architecture's own.
    """
    name: str
    features: torch.Tensor
    model_kwargs: Dict[str, Any] = field(default_factory=dict)

    def computes_as(self, other: 'TimmMatch') -> bool:
        """Whether both make the same of an image."""
        mine, its = self.features, other.features
        if mine.shape != its.shape:
            return False
        difference = (mine - its).abs().max()
        return bool(difference <= _TOLERANCE * its.abs().max())


def matches(file: TensorFile) -> List[TimmMatch]:
    """The architectures of timm whose weights a file may hold.

    Models are built without memory (on the meta device) and, to tell numbers
    of heads, activations and the like apart, with their first block alone.

    Args:
        file (TensorFile): A file with the names of timm or mmpretrain, or a
            translated one.

    Returns:
        list[TimmMatch]: Those made for images of the file's size, if there
        are some; else those that fit with ``model_kwargs``. The shortest
        names first.
    """
    tensors = _under_timms_names(file.tensors)
    wanted = _outline(tensors)
    if len(wanted.get(_EMBEDDING, ())) != 4:
        return []
    found = []
    for name in _architectures():
        patch = re.search(r'patch(\d+)', name)
        if patch and int(patch[1]) != wanted[_EMBEDDING][-1]:
            continue  # building 250 models takes seconds
        if _outline_of(name) == wanted:
            match = _match(name, file, num_blocks(tensors))
            found += [match] * (match is not None)
    found.sort(key=lambda match: (len(match.name), match.name))
    return [match for match in found if not match.model_kwargs] or found


def _architectures() -> List[str]:
    """timm's names, without tags, of what may be a plain ViT."""
    return [
        name for module in _MODULES for name in timm.list_models(module=module)
    ]


def _under_timms_names(tensors: Tensors) -> Tensors:
    if layout_of(tensors) not in ('mmpretrain', 'mmpretrain backbone'):
        return tensors
    try:
        return timm_model_state_dict(tensors) or backbone_to_timm(
            backbone_state_dict(tensors)[0])
    except ValueError:  # not of a plain ViT
        return {}


def _outline(tensors: Tensors) -> Dict[str, Tuple[int, ...]]:
    """Shapes of the patch embedding and of the first block."""
    return {
        name: tuple(tensor.shape)
        for name, tensor in tensors.items()
        if name == _EMBEDDING or name.startswith(_FIRST_BLOCK)
    }


@functools.lru_cache(maxsize=None)
def _outline_of(name: str) -> Dict[str, Tuple[int, ...]]:
    """That of an architecture; {} if it is no plain ViT, or one whose number
    of blocks cannot be set."""
    model = _on_meta(name, dict(depth=1))
    return {} if model is None else _outline(model.state_dict())


def _on_meta(name: str, kwargs: dict) -> Optional[nn.Module]:
    with torch.device('meta'), torch.random.fork_rng(devices=[]):
        try:
            return create_model(name, kwargs)
        except ValueError:
            return None


def _match(name: str, file: TensorFile, depth: int) -> Optional[TimmMatch]:
    """How an architecture fits a file whose first block it has, if it
    does."""
    model, kwargs = _on_meta(name, {}), {}
    if len(model.blocks) != depth:
        return None
    origin = origin_of(file.meta, file.tensors)
    embed = model.patch_embed
    resampled = isinstance(file, TranslatedFile) and file.format.resample
    if model.pos_embed is not None and not resampled:
        number = num_positions(
            file, model.pos_embed.shape[1] - prod(embed.grid_size))
        grid = origin.grid(number) or square(number)
        if grid is None or 0 in grid:
            return None
        if grid != embed.grid_size:
            size = tuple(n * p for n, p in zip(grid, embed.patch_size))
            kwargs = dict(img_size=size[0] if size[0] == size[1] else size)
            model = _on_meta(name, kwargs)
    if model is None or other_heads(model, origin):
        return None
    try:
        weights, _ = convert_weights(file, model)
    except ValueError:
        return None
    if _shapes(weights, weights) != _shapes(model.state_dict(), weights):
        return None
    with fixed_seed():
        first = create_model(name, dict(kwargs, depth=1)).eval()
        images = torch.randn(1, embed.proj.in_channels,
                             *first.patch_embed.img_size)
    own = first.state_dict()
    # What has a part for each block, such as rotary tables, is left as it is.
    first.load_state_dict(
        {
            key: tensor
            for key, tensor in weights.items()
            if key in own and own[key].shape == tensor.shape
        },
        strict=False)
    try:
        settle_details(first, file)
    except ValueError:  # another activation
        return None
    with torch.no_grad():
        _, features = OutputRecorder([first.blocks[0]]).record(
            first.forward_features, images)
    return TimmMatch(name, features[0], kwargs)


def _shapes(tensors: Tensors, given: Tensors) -> Dict[str, Tuple[int, ...]]:
    """Of what both must have: no heads, and norms behind the blocks only if
    the file has some."""
    left_out = _HEADS
    if not any(name.startswith(_NORMS) for name in given):
        left_out += _NORMS
    return {
        name: tuple(tensor.shape)
        for name, tensor in tensors.items() if not name.startswith(left_out)
    }
