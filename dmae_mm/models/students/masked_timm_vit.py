from typing import Optional, Tuple, Union

import torch
from mmpretrain.models.selfsup import MAEViT
from mmpretrain.registry import MODELS

from dmae_mm.models.timm_vit import TimmViT
from dmae_mm.models.timm_vits import show_only_visible
from dmae_mm.options import reject_unknown_options


@MODELS.register_module()
@reject_unknown_options
class MaskedTimmViT(TimmViT):
    """A vision transformer of timm as student of a masked autoencoder.

    It is to timm's models what ``MAEViT`` is to mmpretrain's::

        model.backbone = dict(
            type='MaskedTimmViT',
            model_name='vit_tiny_patch16_224',
            mask_ratio=0.75)

    Supported is what a :class:`TimmTeacher` can be. The mask is drawn by
    ``MAEViT`` itself, so that it is the same from the same random state.
    Everything else is timm's own; a module in the place of ``patch_drop``
    keeps the visible patches. Positions are learnt, as always in timm, while
    those of ``MAEViT`` are fixed.

    A checkpoint has timm's names behind ``backbone.timm_model.``: a
    :class:`TimmViT` loads it, and a ``TIMMBackbone`` of the same
    ``model_name`` by ``init_cfg=dict(type='Pretrained', checkpoint=...,
    prefix='backbone.')``. ``tools/model_converters/export.py`` writes a file
    for timm itself.

    In shapes, K are the visible patches, and the rest is as of
    :class:`TimmViT`.

    Args:
        model_name (str): See :class:`TimmViT`.
        mask_ratio (float): Part of the patches that is hidden: all but
            ``int(L * (1 - mask_ratio))`` of them, as in MAE. Defaults to
            0.75.
        img_size (int | tuple[int, int], optional): See :class:`TimmViT`.
        model_kwargs (dict): See :class:`TimmViT`.
        init_cfg (dict, optional): See :class:`TimmViT`.

    Raises:
        ValueError: If timm has no such model, it is not supported, or an
            option has an illegal value.
    """

    def __init__(self,
                 model_name: str,
                 mask_ratio: float = 0.75,
                 img_size: Optional[Union[int, Tuple[int, int]]] = None,
                 model_kwargs: dict = dict(),
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(model_name, img_size, model_kwargs, 'raw',
                         init_cfg=init_cfg)
        show_only_visible(self.timm_model)
        self.mask_ratio = mask_ratio

    def forward(
        self,
        x: torch.Tensor,
        mask: Optional[bool] = True
    ) -> Union[Tuple[torch.Tensor, torch.Tensor, torch.Tensor],
               Tuple[torch.Tensor]]:
        """Features of the visible patches, or of whole images.

        Args:
            x (torch.Tensor): Normalised images, (B, 3, H, W).
            mask (bool, optional): True draws a mask. Defaults to True.

        Returns:
            tuple: With ``mask=True`` the tokens after the last block and the
            final norm, (B, E + K, C), CLS first and the visible patches in
            the order of the draw; the mask, (B, L), 1 where a patch is
            hidden; and ``ids_restore``, (B, L), int64: the place of each
            patch in the order of the draw. With None or False a tuple of one
            (B, E + L, C), the patches row by row.
        """
        if not mask:
            return super().forward(x)
        # MAE's own draw, which also gathers: here the indices.
        ids = torch.arange(self.num_patches, device=x.device)
        ids_keep, mask, ids_restore = MAEViT.random_masking(
            self, ids.expand(len(x), -1).unsqueeze(2), self.mask_ratio)
        with self.timm_model.patch_drop.only(ids_keep[..., 0]):
            return self.tokens(x), mask, ids_restore
