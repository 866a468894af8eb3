from math import prod
from typing import Dict, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
from mmpretrain.models.necks import MAEPretrainDecoder
from mmpretrain.models.selfsup import MAEViT
from mmpretrain.models.utils import resize_pos_embed
from mmpretrain.registry import MODELS

from dmae_mm.host import quietly
from dmae_mm.models.mmpretrain_vits import (img_size, patch_grid, patch_size,
                                            projection)
from dmae_mm.models.student_input import StudentInput
from dmae_mm.models.tokens import OutputRecorder, resolve_block
from dmae_mm.options import reject_unknown_options
from dmae_mm.weights import TensorFile, mae_to_mmpretrain
from dmae_mm.weights.names import layout_of
from dmae_mm.weights.origin import origin_of
from dmae_mm.weights.positions import other_grid, other_heads

from .mmpretrain_backbones import (arch_settings, backbone_cfg, check_patches,
                                   check_regrid, show_only_visible)
from .teacher import Teacher, fixed_seed
from .teacher_weights import refuse_other_meaning, take_weights


@MODELS.register_module()
@reject_unknown_options
class MAETeacher(Teacher):
    """A masked autoencoder whose decoder teaches: see `MaskedFeatureLoss`.

    Its encoder sees the visible patches; its decoder predicts all, and the
    outputs of its decoder's blocks are the features, as in `Generic-to-
    Specific Distillation <https://arxiv.org/abs/2302.14431>`_. The encoder
    runs as a whole with its norm, the decoder up to the last aligned block,
    without norm and prediction. Where the student has another grid of
    patches, positions are resampled as by :class:`MMPretrainTeacher`.

    Args:
        backbone (dict): Config of the encoder, a ``MAEViT``, as in
            :class:`MMPretrainTeacher`.
        aligned_blocks (Sequence[int | float]): Block of the decoder of each
            aligned pair: see :func:`resolve_block`. A :class:`Distillation`
            fills it in, as the following.
        neck (dict): Config of the decoder as in mmpretrain's MAE. Widths and
            sizes that follow from ``backbone`` can be left out. Defaults to
            ``dict(type='MAEPretrainDecoder')``, which is that of all of
            FAIR's files.
        student_input (StudentInput, optional): With None the teacher takes
            images of its own size. Defaults to None.
        checkpoint (str, optional): Path or http(s) URL of the weights of
            encoder and decoder: a checkpoint of mmpretrain's MAE or of this
            package, or a file of FAIR's MAE that has its decoder; ``.pth`` or
            ``.safetensors``. Defaults to None, which is only legal with
            ``allow_random``.
        sha256 (str, optional): See :class:`Teacher`, as the following.
        mean (Sequence[float], optional): Defaults to what the checkpoint
            says, or else to the student's.
        std (Sequence[float], optional): Likewise.
        dtype (str): Defaults to 'float32'.
        channels (Sequence[int], optional): See :class:`Teacher`.
        allow_random (bool): Teach with random weights (drawn with a fixed
            seed). Defaults to False.

    Raises:
        ValueError: If these are no encoder and decoder of a masked
            autoencoder that fit each other, a block does not exist, or the
            student's patches cannot be matched.
    """

    taps = ('decoder', )
    reads_timm = True

    def __init__(self,
                 backbone: dict,
                 aligned_blocks: Sequence[Union[int, float]],
                 neck: dict = dict(type='MAEPretrainDecoder'),
                 student_input: Optional[StudentInput] = None,
                 checkpoint: Optional[str] = None,
                 sha256: Optional[str] = None,
                 mean: Optional[Sequence[float]] = None,
                 std: Optional[Sequence[float]] = None,
                 dtype: str = 'float32',
                 channels: Optional[Sequence[int]] = None,
                 allow_random: bool = False) -> None:
        for option, cfg, wanted in (('backbone', backbone, MAEViT),
                                    ('neck', neck, MAEPretrainDecoder)):
            kind = cfg.get('type')
            if (MODELS.get(kind) if isinstance(kind, str) else
                    kind) is not wanted:
                raise ValueError(
                    f'teacher.{option}: type={kind!r} is not supported here. '
                    f'A MAETeacher is a masked autoencoder with a '
                    f'{wanted.__name__}.')
        arch = arch_settings(MAEViT, backbone.get('arch', 'base'))
        encoder = dict(
            backbone_cfg(backbone, MAEViT, arch, arch['num_layers']),
            out_indices=[-1],
            final_norm=True)
        # As its checkpoint has it: whole, with its own grid of patches.
        with torch.device('meta'), torch.random.fork_rng(devices=[]):
            whole = _build(encoder, neck)
        grid = own_grid = patch_grid(whole['backbone'])
        num_layers = len(whole['neck'].decoder_blocks)
        aligned = tuple(
            resolve_block(index, num_layers, 'teacher')
            for index in aligned_blocks)
        if student_input is not None and student_input.patch_grid != own_grid:
            grid = student_input.patch_grid
            check_regrid(MAEViT, own_grid, grid)
            side = patch_size(whole['backbone'])[0]
            encoder['img_size'] = (grid[0] * side, grid[1] * side)
            neck = {k: v for k, v in neck.items() if k != 'num_patches'}
        with fixed_seed():
            network = _build(encoder, dict(neck, decoder_depth=max(aligned)
                                           + 1))
            if checkpoint is None and allow_random:
                with quietly():
                    for part in network.values():
                        part.init_weights()
        check_patches(network['backbone'])
        decoder = network['neck']
        # What follows the last aligned block is not wanted.
        setattr(decoder, decoder.decoder_norm_name, nn.Identity())
        decoder.decoder_pred = nn.Identity()
        shapes = {name: t.shape for name, t in whole.state_dict().items()}
        needed = {name: shapes[name] for name in network.state_dict()}
        visible = show_only_visible(network['backbone'])
        super().__init__(
            network=network,
            aligned_blocks=aligned,
            embed_dims=decoder.decoder_embed.out_features,
            num_layers=num_layers,
            num_prefix_tokens=1,
            has_cls_token=True,
            img_size=img_size(network['backbone']),
            patch_grid=grid,
            in_channels=projection(network['backbone']).in_channels,
            checkpoint=checkpoint,
            sha256=sha256,
            mean=mean,
            std=std,
            dtype=dtype,
            channels=channels,
            student_input=student_input,
            allow_random=allow_random)
        # What a checkpoint must and may have.
        self._needed, self._known = needed, set(shapes)
        self._own_grid = own_grid
        self.visible = visible
        self.recorder = OutputRecorder(
            [decoder.decoder_blocks[index] for index in aligned])

    def load_weights(self, file: TensorFile) -> None:
        """Fill encoder and decoder from one checkpoint, strictly.

        Args:
            file (TensorFile): The tensors of ``checkpoint``.

        Raises:
            ValueError: If a needed tensor is missing, has another shape or
                values that are not finite, or if the file has another number
                of blocks or tensors that such a network does not have.
                Nothing is loaded then.
        """
        layout = layout_of(file.tensors)
        try:
            tensors = file.tensors if layout == 'mmpretrain' else (
                mae_to_mmpretrain(file.tensors))
        except ValueError as error:
            raise ValueError(
                f'The teacher checkpoint {file.source} cannot be used: '
                f'{error}') from None
        weights = {
            name: tensor
            for name, tensor in tensors.items()
            if name.startswith(('backbone.', 'neck.'))
        }
        if not any(name.startswith('neck.') for name in weights):
            raise ValueError(
                f'The teacher checkpoint {file.source} cannot be used: it has '
                'no decoder, and the features of a MAETeacher are those of '
                "its decoder. Give the file of the whole autoencoder (FAIR's "
                'with "visualize" in their names), or an MMPretrainTeacher '
                'and another distill_loss.')
        _check_num_blocks(file, weights, self._known)
        weights = take_weights(
            file, layout or 'unknown names', weights, self._needed,
            self._known, self.dtype,
            f'a MAEViT with a decoder of {self.num_layers} blocks, '
            f'{self.embed_dims} wide',
            'teacher.backbone and teacher.neck')
        origin = origin_of(file.meta, file.tensors)
        refuse_other_meaning(
            file,
            other_heads(self.network['backbone'], origin) +
            other_grid(self._own_grid, origin), 'teacher.backbone')
        for name in ('backbone.pos_embed', 'neck.decoder_pos_embed'):
            weights[name] = resize_pos_embed(
                weights[name], self._own_grid, self.patch_grid, 'bicubic',
                weights[name].shape[1] - prod(self._own_grid))
        self.network.load_state_dict(weights)

    def forward(
        self,
        images: torch.Tensor,
        ids_keep: Optional[torch.Tensor] = None,
        ids_restore: Optional[torch.Tensor] = None
    ) -> Tuple[torch.Tensor, ...]:
        """Features of all patches at the aligned blocks of the decoder.

        Args:
            images (torch.Tensor): The student's normalised images,
                (B, C, H, W).
            ids_keep (torch.Tensor, optional): Indices of the K visible
                patches of each image, (B, K), int64. Defaults to None: all,
                in their order.
            ids_restore (torch.Tensor, optional): MAE's permutation, (B, L),
                that these begin. Defaults to None, with ``ids_keep=None``.

        Returns:
            tuple[torch.Tensor]: For each aligned pair the output of its block
            of the decoder, (B, 1 + L, C), CLS first, the patches in their
            own order. float32, no gradient.

        Raises:
            ValueError: If only one of ``ids_keep`` and ``ids_restore`` is
                given.
        """
        if (ids_keep is None) != (ids_restore is None):
            raise ValueError('The decoder of a MAETeacher needs ids_restore '
                             'beside ids_keep, or none of them.')
        return self.run_frozen(self.extract_features, images, ids_keep,
                               ids_restore)

    def extract_features(
            self, images: torch.Tensor, ids_keep: Optional[torch.Tensor],
            ids_restore: Optional[torch.Tensor]) -> Tuple[torch.Tensor, ...]:
        """See :meth:`forward`; of images that are the teacher's own."""
        if ids_restore is None:
            ids_restore = torch.arange(
                prod(self.patch_grid), device=images.device).expand(
                    len(images), -1)
        with self.visible.only(ids_keep):
            # Without the None it would draw a mask of its own.
            latent, = self.network['backbone'](images, None)
        _, features = self.recorder.record(self.network['neck'], latent,
                                           ids_restore)
        return features


def _build(backbone: dict, neck: dict) -> nn.ModuleDict:
    """An encoder and a decoder that fits it."""
    encoder = MODELS.build(backbone)
    follows = dict(
        num_patches=encoder.num_patches,
        patch_size=patch_size(encoder)[0],
        in_chans=projection(encoder).in_channels,
        embed_dim=encoder.embed_dims)
    wrong = [
        f'{name}={neck[name]!r} instead of {value}'
        for name, value in follows.items() if neck.get(name, value) != value
    ]
    if wrong:
        raise ValueError(
            f'teacher.neck: {", ".join(wrong)}, which follows from '
            'teacher.backbone. Leave it out.')
    decoder = MODELS.build({
        **follows,
        **{name: value for name, value in neck.items() if name != 'init_cfg'}
    })
    return nn.ModuleDict(dict(backbone=encoder, neck=decoder))


def _check_num_blocks(file: TensorFile, weights: Dict[str, torch.Tensor],
                      known: Sequence[str]) -> None:
    """Refuse other depths: negative indices and fractions depend on them."""
    for option, blocks in (('backbone', 'backbone.layers.'),
                           ('neck', 'neck.decoder_blocks.')):
        given, own = ({name[len(blocks):].split('.')[0]
                       for name in names if name.startswith(blocks)}
                      for names in (weights, known))
        if given != own:
            raise ValueError(
                f'The teacher checkpoint {file.source} does not fit the '
                f'teacher: it has {len(given)} blocks instead of {len(own)} '
                f'in {option}. Give in teacher.{option} the architecture of '
                'this checkpoint.')
