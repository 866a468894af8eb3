from typing import Any, Optional

from mmpretrain.models.selfsup import MAEHiViT, MAEViT
from mmpretrain.registry import MODELS

from .masked_timm_vit import MaskedTimmViT
from .simmim_student import SimMIMStudent
from .spark_student import SparKStudent
from .stock_student import StockStudent
from .whole_images import outputs_of_whole_images

__all__ = [
    'MASKED_STUDENTS', 'STOCK_BACKBONES', 'MaskedTimmViT', 'SimMIMStudent',
    'SparKStudent', 'StockStudent', 'outputs_of_whole_images', 'stock_student'
]

# The students of a masked autoencoder: each draws its mask as MAE does and
# returns (latent, mask, ids_restore).
MASKED_STUDENTS = (MAEViT, MAEHiViT, MaskedTimmViT)
# Those that learn by the loss of another algorithm than MAE.
STOCK_BACKBONES = (*SimMIMStudent.backbones, *SparKStudent.backbones)


def stock_student(backbone: dict, neck: dict, head: dict,
                  **spark: Any) -> Optional[StockStudent]:
    """The student whose step is that of another algorithm of mmpretrain.

    Args:
        backbone (dict): Config of the backbone, as the following two.
        neck (dict): Of the decoder.
        head (dict): Of the head.
        **spark: Options of :class:`SparKStudent`, or None.

    Returns:
        StockStudent | None: None if the backbone is one of MAE's.

    Raises:
        ValueError: If the parts do not fit together, or there are options of
            SparK for another student.
    """
    cls = backbone.get('type')
    if isinstance(cls, str):
        cls = MODELS.get(cls)
    given = {name: spark[name] for name in spark if spark[name] is not None}
    cls = cls if isinstance(cls, type) else type(None)
    if issubclass(cls, STOCK_BACKBONES) and None in (neck, head):
        raise ValueError(
            f'neck={neck!r}, head={head!r}: a {cls.__name__} needs both, for '
            'the loss of its own algorithm. To train it by a teacher alone, '
            'take a FeatureDistiller.')
    if issubclass(cls, SparKStudent.backbones):
        return SparKStudent(backbone, neck, head, **given)
    if given:
        raise ValueError(
            f'{", ".join(f"{k}={v!r}" for k, v in given.items())}: these are '
            'options of SparK, for a backbone that is a SparseResNet or a '
            'SparseConvNeXt. Remove them. (The mask_ratio of MAE is an option '
            'of its backbone, that of SimMIM one of the SimMIMMaskGenerator '
            'in the pipeline.)')
    if issubclass(cls, SimMIMStudent.backbones):
        return SimMIMStudent(backbone, neck, head)
    return None
