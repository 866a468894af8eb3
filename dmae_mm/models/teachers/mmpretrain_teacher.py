import logging
import re
from typing import Optional, Sequence, Tuple, Type, Union

import torch
import torch.nn as nn
from mmengine.logging import MMLogger, print_log
from mmpretrain.models import VisionTransformer
from mmpretrain.models.selfsup import MAEViT
from mmpretrain.registry import MODELS

from dmae_mm.checkpoints import TensorFile, backbone_state_dict
from dmae_mm.models.block_features import resolve_block
from dmae_mm.options import reject_unknown_options

from .base import BaseTeacher

# Exactly these: a subclass with a forward of its own (BEiT, DINOv2's
# distilled siblings, ...) would run, but not as the code below assumes.
SUPPORTED = (MAEViT, VisionTransformer)


class VisiblePatches(nn.Module):
    """Keeps the prefix tokens and the patch tokens that ``ids_keep`` names.

    It takes the place of a teacher's dropout after the position embedding
    (a dropout that in eval mode does nothing), so that the backbone's own
    forward pass runs on the visible patches only.
    """

    def __init__(self, num_prefix_tokens: int) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens
        self.ids_keep: Optional[torch.Tensor] = None

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        prefix = tokens[:, :self.num_prefix_tokens]
        patches = tokens[:, self.num_prefix_tokens:]
        index = self.ids_keep.unsqueeze(-1).expand(-1, -1, patches.shape[-1])
        return torch.cat([prefix, patches.gather(1, index)], dim=1)


@MODELS.register_module()
@reject_unknown_options
class MMPretrainTeacher(BaseTeacher):
    """A ``MAEViT`` or ``VisionTransformer`` of mmpretrain as teacher.

    The backbone is built without the blocks after the last aligned one and
    without its final norm; a decoder or head is never built.

    Args:
        backbone (dict): Config of the backbone, as in the mmpretrain config
            that it was trained with. The teacher sets ``out_indices``,
            ``out_type``, ``final_norm`` and ``init_cfg`` itself and draws no
            mask.
        aligned_blocks (Sequence[int | float]): Teacher block of each aligned
            pair: see :func:`resolve_block`. :class:`DMAE` fills it in.
        checkpoint (str, optional): Path or http(s) URL of the weights: a
            checkpoint of mmpretrain or of this package, a bare backbone
            state dict, or a file of FAIR's MAE; ``.pth`` or
            ``.safetensors``. Defaults to None, which is only legal with
            ``allow_random``.
        allow_random (bool): Teach with random weights (drawn with a fixed
            seed). Defaults to False.

    Raises:
        ValueError: If the backbone is not supported or a block does not
            exist.
    """

    def __init__(self,
                 backbone: dict,
                 aligned_blocks: Sequence[Union[int, float]],
                 checkpoint: Optional[str] = None,
                 allow_random: bool = False) -> None:
        cfg = dict(backbone)
        backbone_cls = cfg.get('type')
        if isinstance(backbone_cls, str):
            backbone_cls = MODELS.get(backbone_cls)
        if backbone_cls not in SUPPORTED:
            raise ValueError(
                f'teacher.backbone: type={cfg.get("type")!r} is not '
                f'supported. Choose one of '
                f'{[supported.__name__ for supported in SUPPORTED]}.')

        arch = _arch_settings(backbone_cls, cfg.get('arch', 'base'))
        num_layers = arch['num_layers']
        blocks = tuple(
            resolve_block(index, num_layers, 'teacher')
            for index in aligned_blocks)
        depth = max(blocks) + 1
        cfg.pop('init_cfg', None)
        cfg.update(
            arch=dict(arch, num_layers=depth),
            out_indices=sorted(set(blocks)),
            out_type='raw',
            final_norm=False)
        if isinstance(cfg.get('layer_cfgs'), (list, tuple)):
            cfg['layer_cfgs'] = list(cfg['layer_cfgs'])[:depth]

        # A seed of its own: random weights must be the same on every rank
        # and after a restart, and a run with a teacher must initialise its
        # student as the control without one does.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            network = MODELS.build(cfg)
            if checkpoint is None and allow_random:
                _init_quietly(network)
        network.drop_after_pos = VisiblePatches(network.num_extra_tokens)
        super().__init__(
            network=network,
            aligned_blocks=blocks,
            embed_dims=network.embed_dims,
            num_layers=num_layers,
            num_prefix_tokens=network.num_extra_tokens,
            has_cls_token=network.cls_token is not None,
            img_size=network.img_size,
            patch_grid=network.patch_resolution,
            checkpoint=checkpoint,
            allow_random=allow_random)

    def load_weights(self, file: TensorFile) -> None:
        """Fill the backbone from a checkpoint, strictly.

        Args:
            file (TensorFile): The tensors of ``checkpoint``.

        Raises:
            ValueError: If a needed tensor is missing, has another shape or
                values that are not finite, or if the file has another number
                of blocks or tensors that a backbone of this architecture
                does not have. Nothing is loaded then.
        """
        try:
            weights, layout = backbone_state_dict(file.tensors)
        except ValueError as error:
            raise ValueError(
                f'The teacher checkpoint {file.source} cannot be used: '
                f'{error}') from None
        needed = self.network.state_dict()
        last_block = len(self.network.layers) - 1
        unused, foreign = [], []
        for name in weights.keys() - needed.keys():
            known = _is_unused(name, last_block, self.num_layers)
            (unused if known else foreign).append(name)
        # Blocks that the teacher drops must be there nevertheless: without
        # them, negative indices and depth fractions name other blocks.
        blocks = {
            name.split('.')[1]
            for name in weights if name.startswith('layers.')
        }
        problems = []
        if len(blocks) != self.num_layers:
            problems.append(f'the file has {len(blocks)} blocks')
        for name, tensor in needed.items():
            problem = _misfit(weights.get(name), tensor)
            if problem:
                problems.append(f'{name} {problem}')
        problems += [f'{name} is unknown' for name in sorted(foreign)]
        if problems:
            shown = '; '.join(problems[:5])
            more = f'; and {len(problems) - 5} more' * (len(problems) > 5)
            raise ValueError(
                f'The teacher checkpoint {file.source} does not fit the '
                f'teacher, a {type(self.network).__name__} of '
                f'{self.num_layers} blocks, {self.embed_dims} wide: '
                f'{shown}{more}. Give a checkpoint of this architecture, or '
                'the architecture of this checkpoint in teacher.backbone.')
        self.network.load_state_dict({name: weights[name] for name in needed})
        print_log(
            f'Teacher: {len(needed)} tensors from {file.source} '
            f'({layout}, {file.num_bytes / 2**20:.1f} MiB, sha256 '
            f'{file.sha256[:8]}); blocks 0 to {last_block} of '
            f'{self.num_layers} are kept, {len(unused)} backbone tensors '
            'behind them are not needed.',
            logger='current')

    def extract_features(self, images: torch.Tensor,
                         ids_keep: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        """See :meth:`BaseTeacher.forward`."""
        self.network.drop_after_pos.ids_keep = ids_keep
        # MAEViT masks at random unless it is told not to.
        kwargs = dict(mask=None) if isinstance(self.network, MAEViT) else {}
        outputs = self.network(images, **kwargs)
        by_block = dict(zip(self.network.out_indices, outputs))
        return tuple(by_block[block] for block in self.aligned_blocks)


def _init_quietly(network: nn.Module) -> None:
    """Initialise without the two log lines for each tensor."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        network.init_weights()
    finally:
        logger.setLevel(level)


def _arch_settings(backbone_cls: Type[VisionTransformer],
                   arch: Union[str, dict]) -> dict:
    """The dict behind the name of an architecture."""
    if isinstance(arch, dict):
        return dict(arch)
    if str(arch).lower() not in backbone_cls.arch_zoo:
        raise ValueError(f'teacher.backbone: arch={arch!r} does not exist. '
                         'Choose one of '
                         f'{", ".join(backbone_cls.arch_zoo)}, or give a '
                         'dict.')
    return dict(backbone_cls.arch_zoo[arch.lower()])


def _misfit(given: Optional[torch.Tensor],
            needed: torch.Tensor) -> Optional[str]:
    """Why a tensor of a file cannot be the one that is needed, if so."""
    if given is None:
        return 'is missing'
    if given.shape != needed.shape:
        return (f'has shape {tuple(given.shape)} instead of '
                f'{tuple(needed.shape)}')
    if not given.is_floating_point():
        return f'has values of type {given.dtype}'
    if not given.to(needed.dtype).isfinite().all():
        return 'has values that are not finite'
    return None


def _is_unused(name: str, last_block: int, num_layers: int) -> bool:
    """Whether the whole backbone has this tensor and the teacher drops it."""
    block = re.match(r'layers\.(\d+)\.', name)
    if block:
        return last_block < int(block.group(1)) < num_layers
    return name.startswith(('ln1.', 'ln2.'))
