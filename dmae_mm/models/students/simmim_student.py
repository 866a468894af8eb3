from typing import Dict, List, Optional, Tuple

import torch
from mmpretrain.models.selfsup import SimMIM, SimMIMSwinTransformer
from mmpretrain.structures import DataSample

from .stock_student import StockStudent, visible_first


class SimMIMStudent(StockStudent):
    """A Swin transformer that learns as in mmpretrain's ``SimMIM``.

    The mask comes from the pipeline: a ``SimMIMMaskGenerator`` hides units of
    32 px (its ``mask_patch_size``), as many in each image. In an embedding of
    4 px the mask has 8 x 8 cells a unit. Aligned are the last blocks of the
    stages, in front of what merges patches.

    Args:
        backbone (dict): Config of a ``SimMIMSwinTransformer``.
        neck (dict): Of a ``SimMIMLinearDecoder``.
        head (dict): Of a ``SimMIMHead``.

    Raises:
        ValueError: If the parts do not fit together.
    """

    backbones = (SimMIMSwinTransformer, )

    def __init__(self, backbone: dict, neck: dict, head: dict) -> None:
        algorithm = SimMIM(backbone=backbone, neck=neck, head=head)
        swin = algorithm.backbone
        patch = swin.patch_embed.projection.kernel_size[0]
        unit = patch * 2**(len(swin.stages) - 1)
        height, width = (patch * n for n in swin.patch_resolution)
        self.num_visible: Optional[int] = None
        super().__init__(
            algorithm,
            stages=[stage.blocks[-1] for stage in swin.stages],
            embed_dims=[stage.embed_dims for stage in swin.stages],
            img_size=height,
            unit=unit)
        _check(algorithm, (height, width), patch, unit, self.embed_dims[-1])

    def loss(
        self, images: torch.Tensor, data_samples: List[DataSample]
    ) -> Tuple[Dict[str, torch.Tensor], torch.Tensor, int]:
        """See :meth:`StockStudent.loss`."""
        self.check_size(images)
        self._check_masks(data_samples)
        losses = self.algorithm.loss(images, data_samples)
        # (B, H / 4, W / 4), of which one cell stands for each unit
        mask = torch.stack([sample.mask for sample in data_samples]).ne(0)
        rows, columns = self.units
        cells = mask.shape[1] // rows
        hidden = mask[:, ::cells, ::cells]
        if self.num_visible is None:
            # Asked for once: later the device need not be waited for.
            self.num_visible = int((~hidden[0]).sum())
            if self.num_visible == 0:
                raise ValueError(
                    'The mask of the SimMIMMaskGenerator in the pipeline '
                    f'leaves none of the {rows} x {columns} regions visible '
                    'that a teacher sees. Lower its mask_ratio.')
        whole = hidden.repeat_interleave(cells, 1).repeat_interleave(cells, 2)
        as_many = (~hidden).flatten(1).sum(dim=1) == self.num_visible
        torch._assert_async(
            (whole == mask).all() & as_many.all(),
            f'The masks must hide whole regions of {self.img_size // rows} px '
            '(mask_patch_size of the SimMIMMaskGenerator in the pipeline, or '
            'a multiple), in each image of a training as many: '
            f'{self.num_visible} were visible of {rows} x {columns}.')
        return (dict(loss_recon=losses['loss']),
                visible_first(hidden.flatten(1)), self.num_visible)


    def _check_masks(self, data_samples: List[DataSample]) -> None:
        wanted = tuple(self.backbone.patch_resolution)
        for sample in data_samples or [None]:
            mask = getattr(sample, 'mask', None)
            if mask is None or tuple(mask.shape) != wanted:
                found = None if mask is None else tuple(mask.shape)
                raise ValueError(
                    f'A sample has a mask of shape {found} instead of '
                    f'{wanted}. Put a SimMIMMaskGenerator(input_size='
                    f'{self.img_size}, model_patch_size='
                    f'{self.img_size // wanted[0]}) in front of PackInputs '
                    'in the pipeline.')


def _check(algorithm: SimMIM, size: Tuple[int, int], patch: int, unit: int,
           width: int) -> None:
    """Refuse a decoder or head of other sizes than the backbone's."""
    swin, last = algorithm.backbone, len(algorithm.backbone.stages) - 1
    if size[0] != size[1] or size[0] % unit:
        raise ValueError(
            f'backbone: img_size={size} is not a square of whole regions of '
            f'{unit} x {unit} px, which a mask hides. Give a multiple of '
            f'{unit}.')
    if swin.out_indices[0] != last:
        raise ValueError(
            f'backbone: out_indices={tuple(swin.out_indices)}: the decoder '
            f'takes the first of these stages, which must be the last, {last}.'
        )
    conv, shuffle = algorithm.neck.decoder
    for option, value, wanted, origin in (
        ('neck: in_channels', conv.in_channels, width,
         'the width of its last stage'),
        ('neck: encoder_stride', shuffle.upscale_factor, unit,
         'the pixels of a cell of its last stage'),
        ('head: patch_size', algorithm.head.patch_size, patch,
         'its patch_size'),
        ('backbone: in_channels', swin.patch_embed.projection.in_channels, 3,
         'SimMIM reconstructs three channels'),
    ):
        if value != wanted:
            raise ValueError(f'{option} is {value}, but the backbone (the '
                             f'student) needs {wanted}: {origin}.')
