import contextlib
from typing import Any, Dict, Iterator, List, Optional, Tuple

import torch
import torch.distributed as dist
import torch.nn as nn
from mmengine.device import get_device
from mmpretrain.models import SparseConvNeXt, SparseResNet
from mmpretrain.models.selfsup import SparK
from mmpretrain.models.utils import SparseHelper
from mmpretrain.structures import DataSample

from dmae_mm.host import build
from dmae_mm.models.student_input import input_channels
from dmae_mm.options import is_finite_number

from .stock_student import StockStudent, visible_first


class SparKStudent(StockStudent):
    """A convolutional network that learns as in mmpretrain's ``SparK``.

    Its sparse convolutions and norms compute on visible regions only. They
    pick these by boolean indexing, so a step waits for the device and does
    not compile in one graph: that is the stock code's. Aligned are the maps
    of the stages.

    Args:
        backbone (dict): Config of a ``SparseResNet`` or ``SparseConvNeXt``
            that puts out all of its stages.
        neck (dict): Of a ``SparKLightDecoder``.
        head (dict): Of a ``SparKPretrainHead``.
        enc_dec_norm_dim (int, optional): Defaults to None: the width of the
            last stage.
        **options: Others of ``SparK``: ``input_size`` (224),
            ``downsample_raito`` (32), ``mask_ratio`` (0.6),
            ``enc_dec_norm_cfg``.

    Raises:
        ValueError: If the parts do not fit together.
    """

    backbones = (SparseResNet, SparseConvNeXt)

    def __init__(self,
                 backbone: dict,
                 neck: dict,
                 head: dict,
                 enc_dec_norm_dim: Optional[int] = None,
                 **options: Any) -> None:
        # In mmpretrain's scope, where its norms are found.
        network = build(backbone, 'backbone')
        if isinstance(network, SparseResNet):
            stages = [getattr(network, name) for name in network.res_layers]
            widths = [stage[-1].out_channels for stage in stages]
        else:
            stages, widths = list(network.stages), list(network.channels)
        if enc_dec_norm_dim not in (None, widths[-1]):
            raise ValueError(
                f'enc_dec_norm_dim={enc_dec_norm_dim!r}, but the last stage '
                f'of the backbone is {widths[-1]} wide. Leave it out.')
        _check_mask(**options)
        algorithm = SparK(
            backbone=network,
            neck=neck,
            head=head,
            enc_dec_norm_dim=widths[-1],
            **options)
        super().__init__(
            algorithm,
            stages=stages,
            embed_dims=widths,
            img_size=algorithm.input_size,
            unit=algorithm.downsample_raito)
        _check_parts(algorithm, len(stages))
        _check_norms(algorithm)

    def loss(
        self, images: torch.Tensor, data_samples: List[DataSample]
    ) -> Tuple[Dict[str, torch.Tensor], torch.Tensor, int]:
        """See :meth:`StockStudent.loss`."""
        self.check_size(images)
        losses = self.algorithm.loss(images, data_samples)
        visible = SparseHelper._cur_active.flatten(1)  # as it was drawn
        return (dict(loss_recon=losses['loss']), visible_first(~visible),
                self.algorithm.len_keep)


def _check_mask(input_size: int = 224,
                downsample_raito: int = 32,
                mask_ratio: float = 0.6,
                **others: Any) -> None:
    """Refuse images that are not of whole regions, or all of them hidden."""
    if input_size % downsample_raito:
        raise ValueError(
            f'input_size={input_size} is no multiple of '
            f'downsample_raito={downsample_raito}, the pixels of a region '
            'that is hidden or visible. Give a multiple.')
    number = (input_size // downsample_raito)**2
    if not is_finite_number(mask_ratio) or not (
            1 <= round(number * (1 - mask_ratio)) < number):
        raise ValueError(
            f'mask_ratio={mask_ratio!r} must hide some of the {number} '
            f'regions of {downsample_raito} px, but not all: give a number '
            f'from {1 / number:.4g} to {1 - 1 / number:.4g}.')


def _check_parts(algorithm: SparK, num_stages: int) -> None:
    """Refuse a decoder or head of other sizes than the backbone's."""
    network, unit = algorithm.backbone, algorithm.downsample_raito
    for option, value, wanted, origin in (
        ('backbone: out_indices', tuple(network.out_indices),
         tuple(range(num_stages)), 'its decoder takes all stages'),
        ('backbone: gap_before_output',
         getattr(network, 'gap_before_output', False), False,
         'its decoder takes maps'),
        ('neck: upsample_ratio', 2**len(algorithm.neck.decoder), unit,
         'its downsample_raito'),
        ('downsample_raito', unit, 2**(num_stages + 1),
         'the pixels of a cell of its last stage'),
        ('head: patch_size', algorithm.head.patch_size, unit,
         'its downsample_raito'),
        ('backbone: in_channels', input_channels(network), 3,
         'the decoder of SparK predicts three channels'),
    ):
        if value != wanted:
            raise ValueError(f'{option} is {value}, but the backbone (the '
                             f'student) needs {wanted}: {origin}.')


def _check_norms(algorithm: SparK) -> None:
    """Refuse norms that several processes without a GPU cannot compute."""
    if dist.is_available() and dist.is_initialized() and (
            get_device() == 'cpu') and any(
                isinstance(module, nn.SyncBatchNorm)
                for module in algorithm.modules()):
        raise ValueError(
            'SyncBatchNorm in a process group needs a GPU. Without one, set '
            "norm_cfg=dict(type='SparseBatchNorm2d') in a SparseResNet, "
            "enc_dec_norm_cfg=dict(type='SparseBatchNorm2d'), and "
            "norm_cfg=dict(type='BN') in the neck.")


@contextlib.contextmanager
def all_visible(images: torch.Tensor) -> Iterator[None]:
    """Sparse modules compute on whole images in the body of the ``with``.

    Without it they would take the mask of the last training step.

    Args:
        images (torch.Tensor): What the backbone gets: squares, (B, C, H, H).
    """
    before = SparseHelper._cur_active
    SparseHelper._cur_active = torch.ones(
        len(images), 1, 1, 1, dtype=torch.bool, device=images.device)
    try:
        yield
    finally:
        SparseHelper._cur_active = before
