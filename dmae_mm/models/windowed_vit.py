from math import ceil, isqrt
from typing import Dict, List, Optional, Tuple, Union

import torch
from mmengine.logging import print_log
from mmpretrain.models import VisionTransformer, ViTSAM
from mmpretrain.registry import MODELS

from dmae_mm.options import reject_unknown_options

from .mmpretrain_vits import check_arch


def spread_global_blocks(num_layers: int, num_global: int = 4) -> List[int]:
    """Indices of global blocks, the last of each of equal parts.

    Args:
        num_layers (int): Number of blocks.
        num_global (int): Number of parts. Defaults to 4.

    Returns:
        list[int]: For 12 blocks [2, 5, 8, 11]. All blocks, if there are no
        more than ``num_global``.
    """
    return sorted({
        max(ceil(num_layers * part / num_global), 1) - 1
        for part in range(1, num_global + 1)
    })


@MODELS.register_module()
@reject_unknown_options
class WindowedViT(ViTSAM):
    """A plain vision transformer for large images, from a DMAE checkpoint.

    Most blocks attend within windows, a few globally, as in `Exploring Plain
    Vision Transformer Backbones for Object Detection
    <https://arxiv.org/abs/2203.16527>`_, section 3. It is mmpretrain's ViTSAM
    without its last convolutions: one map of stride ``patch_size``.

    A checkpoint of MAEViT or VisionTransformer loads by ``init_cfg`` alone.
    On the way, its position embedding gets ViTSAM's shape and is resampled to
    the grid of ``img_size``; dropped, with a line in the log, is what this
    network does not have: the CLS token with its position, and the norms
    behind the last block, ``ln1`` and ``ln2`` (the neck and the heads have
    norms of their own).

    Images need not fill whole patches or windows: zeros are added at the right
    and at the bottom, of the image for a patch, of a block's normalised
    tokens for a window. For a grid of patches other than that of ``img_size``,
    positions are resampled to it, whatever its aspect ratio.

    Args:
        arch (str | dict): As in pre-training: the name of an architecture of
            VisionTransformer ('deit-t', 'deit-s', 'b', ...), or a dict with
            ``embed_dims``, ``num_layers``, ``num_heads`` and
            ``feedforward_channels``. A dict may have
            ``global_attn_indexes``, the 0-based blocks with global
            attention; by default, these are the last of each quarter, of 12
            blocks [2, 5, 8, 11].
        img_size (int | tuple[int, int]): Pixels, height and width, of the
            images that are met most often. Defaults to 1024.
        patch_size (int): Pixels. Defaults to 16.
        in_channels (int): Channels of the images. Defaults to 3.
        window_size (int): Height and width of a window, in patches.
            Defaults to 14, the grid of pre-training.
        drop_path_rate (float): Stochastic depth of the last block; it rises
            linearly from 0. ViTSAM applies it to MLPs, not to attention.
            Defaults to 0.
        use_rel_pos (bool): Whether blocks learn relative positions, which the
            paper adds for fine-tuning. No checkpoint of pre-training has
            them: they start from zeros, which is as if there were none. So
            they are off unless asked for, and every tensor comes from the
            checkpoint. Defaults to False.
        init_cfg (dict, optional): ``dict(type='Pretrained', checkpoint=...,
            prefix='backbone.')``. Defaults to None.

    Raises:
        ValueError: If ``global_attn_indexes`` or ``window_size`` cannot be,
            or ``init_cfg`` is a list with a checkpoint, whose positions
            ViTSAM would draw anew.
    """
    arch_zoo = {
        name: dict(
            arch,
            global_attn_indexes=spread_global_blocks(arch['num_layers']))
        for name, arch in VisionTransformer.arch_zoo.items()
    }

    def __init__(self,
                 arch: Union[str, dict] = 'base',
                 img_size: Union[int, Tuple[int, int]] = 1024,
                 patch_size: int = 16,
                 in_channels: int = 3,
                 window_size: int = 14,
                 drop_path_rate: float = 0.,
                 use_rel_pos: bool = False,
                 init_cfg: Optional[dict] = None) -> None:
        check_arch('WindowedViT', dict(type=WindowedViT, arch=arch))
        if isinstance(arch, dict):
            arch = _with_global_blocks(arch)
        if not isinstance(window_size, int) or window_size < 1:
            raise ValueError(
                f'WindowedViT: window_size={window_size!r} is no size in '
                'patches. Give 1 or more; which blocks have no windows is '
                'said by arch.global_attn_indexes.')
        if isinstance(init_cfg, list) and any(
                cfg.get('type') == 'Pretrained' for cfg in init_cfg):
            raise ValueError(
                f'WindowedViT: init_cfg={init_cfg!r}: from a list, all but '
                'the position embedding is loaded, which is then drawn anew. '
                "Give dict(type='Pretrained', ...) alone, without list.")
        super().__init__(
            arch=arch,
            img_size=img_size,
            patch_size=patch_size,
            in_channels=in_channels,
            out_channels=0,
            window_size=window_size,
            drop_path_rate=drop_path_rate,
            use_rel_pos=use_rel_pos,
            init_cfg=init_cfg)

    def _prepare_pos_embed(self, state_dict: Dict[str, torch.Tensor],
                           prefix: str, *args, **kwargs) -> None:
        """Make the tensors of a plain vision transformer this network's.

        ViTSAM calls it before loading. A position embedding of its own
        shape, (1, H, W, C), goes on to ViTSAM as it is.
        """
        name = f'{prefix}pos_embed'
        given = state_dict.get(name)
        if given is None or given.shape[-1] != self.embed_dims:
            return  # reported by who loads, with the names of all tensors
        if given.dim() == 3:  # (1, 1 + N, C) with CLS, or (1, N, C)
            if f'{prefix}cls_token' in state_dict:
                given = given[:, 1:]
            state_dict[name] = _as_grid(given)
        dropped = [
            key for key in state_dict
            if key.startswith((f'{prefix}cls_token', f'{prefix}ln1.',
                               f'{prefix}ln2.'))
        ]
        for key in dropped:
            del state_dict[key]
        if dropped:
            print_log(
                f'WindowedViT has no use for {", ".join(dropped)}.',
                logger='current')
        super()._prepare_pos_embed(state_dict, prefix)


def _with_global_blocks(arch: dict) -> dict:
    """Fill in, or check, which blocks are global. ViTSAM would take a block
    that does not exist for none."""
    num_layers = arch.get('num_layers')
    if num_layers is None:
        return arch  # refused by ViTSAM
    indexes = arch.get('global_attn_indexes')
    if indexes is None:
        indexes = spread_global_blocks(num_layers)
    wrong = [index for index in indexes if index not in range(num_layers)]
    if wrong:
        raise ValueError(
            f'WindowedViT: arch.global_attn_indexes={indexes!r}: there is no '
            f'block {wrong[0]!r}. Choose from 0 to {num_layers - 1}.')
    return dict(arch, global_attn_indexes=list(indexes))


def _as_grid(positions: torch.Tensor) -> torch.Tensor:
    """(1, N, C) to (1, H, W, C)."""
    side = isqrt(positions.shape[1])
    if side * side != positions.shape[1]:
        raise ValueError(
            f'WindowedViT: the position embedding of the checkpoint has '
            f'{positions.shape[1]} patches, which are no square. Only '
            'checkpoints of square images can be loaded.')
    return positions.reshape(1, side, side, -1)
