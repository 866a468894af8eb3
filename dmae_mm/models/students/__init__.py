from mmpretrain.models.selfsup import MAEHiViT, MAEViT

from .masked_timm_vit import MaskedTimmViT

# The students of a masked autoencoder: each draws its mask as MAE does and
# returns (latent, mask, ids_restore).
MASKED_STUDENTS = (MAEViT, MAEHiViT, MaskedTimmViT)

__all__ = ['MASKED_STUDENTS', 'MaskedTimmViT']
