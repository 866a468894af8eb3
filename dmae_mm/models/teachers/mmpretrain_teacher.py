from math import prod
from typing import Dict, Optional, Sequence, Tuple, Union

import torch
from mmpretrain.models import DeiT3, HiViT
from mmpretrain.models.selfsup import MAEHiViT, MAEViT
from mmpretrain.models.utils import resize_pos_embed
from mmpretrain.registry import MODELS
from timm.layers import resize_rel_pos_bias_table

from dmae_mm.host import quietly
from dmae_mm.models.tokens import OutputRecorder, resolve_block
from dmae_mm.models.mmpretrain_vits import (blocks, img_size, patch_grid,
                                            patch_size, projection)
from dmae_mm.models.qkv_layers import (UpToQKV, check_tap, qkv_layers,
                                       shared_num_heads)
from dmae_mm.models.student_input import StudentInput
from dmae_mm.options import reject_unknown_options
from dmae_mm.weights import TensorFile, backbone_state_dict
from dmae_mm.weights.names import COMPUTED, under_prefix
from dmae_mm.weights.origin import origin_of
from dmae_mm.weights.positions import other_grid, other_heads

from .mmpretrain_backbones import (RESAMPLING, SUPPORTED, arch_settings,
                                   backbone_cfg, check_patches, check_regrid,
                                   show_only_visible)
from .teacher import Teacher, fixed_seed
from .teacher_weights import refuse_other_meaning, take_weights


@MODELS.register_module()
@reject_unknown_options
class MMPretrainTeacher(Teacher):
    """A plain vision transformer of mmpretrain as teacher.

    Supported are ``MAEViT``, ``VisionTransformer`` (also with DINOv2's and
    CLIP's options), ``DistilledVisionTransformer``, ``DeiT3``, ``BEiTViT``,
    ``ViTEVA02``, and ``HiViT`` and ``MAEHiViT`` without relative positions,
    whose blocks are counted in the main stage. The backbone is built without
    the blocks after the last aligned one and without its final norm; a
    decoder or head is never built.

    Where the student has another grid of patches, the backbone is built for
    that grid, and mmpretrain's own resampling fits the position embeddings
    of the checkpoint (timm's, for relative positions).

    Args:
        backbone (dict): Config of the backbone, as in the mmpretrain config
            that it was trained with. The teacher sets ``out_indices``,
            ``out_type``, ``final_norm`` and ``init_cfg`` itself and draws no
            mask.
        aligned_blocks (Sequence[int | float]): Teacher block of each aligned
            pair: see :func:`resolve_block`. A :class:`Distillation` fills it
            in, as the following.
        student_input (StudentInput, optional): With None the teacher takes
            images of its own size. Defaults to None.
        checkpoint (str, optional): Path or http(s) URL of the weights: a
            checkpoint of mmpretrain or of this package, a bare backbone
            state dict, a file of FAIR's MAE, or one of timm's ViT; ``.pth``
            or ``.safetensors``. Defaults to None, which is only legal with
            ``allow_random``.
        sha256 (str, optional): See :class:`Teacher`, as the following.
        mean (Sequence[float], optional): Must be given where the checkpoint
            is of another origin than MAE and does not say it. Defaults to
            what it says, or else to the student's.
        std (Sequence[float], optional): Likewise.
        dtype (str): Defaults to 'float32'.
        channels (Sequence[int], optional): See :class:`Teacher`.
        tap (str): Which features of a block it gives: 'block', its output;
            or 'qkv', that of its ``qkv`` layer, (B, P + K, 3 C), before
            rotary positions and norms of q and k, and without computing the
            rest of the last block. A :class:`Distillation` fills it in.
            Defaults to 'block'.
        allow_random (bool): Teach with random weights (drawn with a fixed
            seed). Defaults to False.

    Raises:
        ValueError: If the backbone is not supported, a block does not exist,
            the student's patches cannot be matched, or blocks have no
            ``qkv`` layer for ``tap='qkv'``.
    """

    taps = ('block', 'qkv')
    reads_timm = True

    def __init__(self,
                 backbone: dict,
                 aligned_blocks: Sequence[Union[int, float]],
                 student_input: Optional[StudentInput] = None,
                 checkpoint: Optional[str] = None,
                 sha256: Optional[str] = None,
                 mean: Optional[Sequence[float]] = None,
                 std: Optional[Sequence[float]] = None,
                 dtype: str = 'float32',
                 channels: Optional[Sequence[int]] = None,
                 tap: str = 'block',
                 allow_random: bool = False) -> None:
        check_tap(tap, self.taps)
        backbone_cls = backbone.get('type')
        if isinstance(backbone_cls, str):
            backbone_cls = MODELS.get(backbone_cls)
        if backbone_cls not in SUPPORTED:
            raise ValueError(
                f'teacher.backbone: type={backbone.get("type")!r} is not '
                f'supported. Choose one of '
                f'{[supported.__name__ for supported in SUPPORTED]}.')
        arch = arch_settings(backbone_cls, backbone.get('arch', 'base'))
        num_layers = (arch['depths'][-1] if issubclass(
            backbone_cls, HiViT) else arch['num_layers'])
        aligned = tuple(
            resolve_block(index, num_layers, 'teacher')
            for index in aligned_blocks)

        # As its checkpoint has it: whole, with its own grid of patches. Only
        # shapes are wanted, but HiViT asks tensors for their values.
        device = 'cpu' if issubclass(backbone_cls, HiViT) else 'meta'
        with torch.device(device), torch.random.fork_rng(devices=[]):
            whole = MODELS.build(
                backbone_cfg(backbone, backbone_cls, arch, num_layers))
        grid = own_grid = patch_grid(whole)
        cfg = backbone_cfg(backbone, backbone_cls, arch, max(aligned) + 1)
        if student_input is not None:
            grid = student_input.teacher_grid(own_grid, patch_size(whole))
        if grid != own_grid:
            check_regrid(backbone_cls, own_grid, grid)
            height, width = projection(whole).kernel_size
            cfg['img_size'] = (grid[0] * height, grid[1] * width)

        with fixed_seed():
            network = MODELS.build(cfg)
            if checkpoint is None and allow_random:
                with quietly():
                    network.init_weights()
        check_patches(network)
        tapped = [blocks(network)[index] for index in aligned]
        num_heads = None
        if tap == 'qkv':
            num_heads = shared_num_heads(tapped)
            tapped = qkv_layers(tapped)
            if tapped is None:
                raise ValueError(
                    f'teacher.backbone: type={backbone_cls.__name__!r} does '
                    "not make q, k and v in one layer (a BEiTViT's "
                    "bias='qv_bias' is added elsewhere), so their relations "
                    'cannot be taken. Choose another backbone, or a '
                    'distill_loss that compares the outputs of blocks.')
            layers = network.blocks if isinstance(network, HiViT) else (
                network.layers)
            layers[-1] = UpToQKV(layers[-1])
        shapes = {name: t.shape for name, t in whole.state_dict().items()}
        known = set(shapes)
        known.update(f'{norm}.{kind}' for norm in ('ln1', 'ln2')
                     for kind in ('weight', 'bias'))
        needed = {
            name: shapes[name]
            for name in network.state_dict() if not COMPUTED.fullmatch(name)
        }
        visible = show_only_visible(network)
        network.out_indices = []  # the outputs of blocks are recorded
        super().__init__(
            network=network,
            aligned_blocks=aligned,
            embed_dims=network.embed_dims,
            num_layers=num_layers,
            num_prefix_tokens=network.num_extra_tokens,
            has_cls_token=getattr(network, 'cls_token', None) is not None,
            img_size=img_size(network),
            patch_grid=grid,
            in_channels=projection(network).in_channels,
            checkpoint=checkpoint,
            sha256=sha256,
            mean=mean,
            std=std,
            dtype=dtype,
            channels=channels,
            student_input=student_input,
            any_grid=backbone_cls in RESAMPLING
            and own_grid[0] == own_grid[1],
            allow_random=allow_random)
        # What a checkpoint must and may have.
        self._needed, self._known = needed, known
        self._own_grid = own_grid
        self.visible = visible
        self.num_heads = num_heads
        self.recorder = OutputRecorder(tapped)

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
        weights, layout = self._backbone_weights(file)
        weights = take_weights(
            file, layout, weights, self._needed, self._known, self.dtype,
            f'a {type(self.network).__name__} of {self.num_layers} blocks, '
            f'{self.embed_dims} wide', 'teacher.backbone')
        origin = origin_of(file.meta, file.tensors)
        refuse_other_meaning(
            file, other_heads(self.network, origin) +
            (other_grid(self._own_grid, origin)
             if 'pos_embed' in weights else []), 'teacher.backbone')
        own = self.network.state_dict()
        for name in weights:
            if name.endswith('relative_position_bias_table'):
                # mmpretrain's way needs a SciPy older than 1.14.
                weights[name] = resize_rel_pos_bias_table(
                    weights[name],
                    new_window_size=self.patch_grid,
                    new_bias_shape=own[name].shape)
        if 'pos_embed' in weights:
            # Loading would resample where shapes differ, but another grid may
            # have as many patches.
            positions = weights['pos_embed']
            weights['pos_embed'] = resize_pos_embed(
                positions, self._own_grid, self.patch_grid,
                getattr(self.network, 'interpolate_mode', 'bicubic'),
                positions.shape[1] - prod(self._own_grid))
        # Tensors that are not given are computed from the grid.
        self.network.load_state_dict(weights, strict=False)

    def _backbone_weights(
            self, file: TensorFile) -> Tuple[Dict[str, torch.Tensor], str]:
        if isinstance(self.network, HiViT):  # has no other names
            backbone = under_prefix(file.tensors, 'backbone.')
            return backbone or dict(file.tensors), 'mmpretrain'
        if {'reg_token', 'register_tokens'} & file.tensors.keys():
            raise ValueError(
                f'The teacher checkpoint {file.source} cannot be used: it has '
                'register tokens, and no vision transformer of mmpretrain '
                "has. Use a TimmTeacher(model_name='vit_..._reg4_...').")
        try:
            weights, layout = backbone_state_dict(file.tensors)
        except ValueError as error:
            raise ValueError(
                f'The teacher checkpoint {file.source} cannot be used: '
                f'{error}') from None
        if isinstance(self.network, DeiT3) and layout == 'timm/MAE':
            raise ValueError(
                f'The teacher checkpoint {file.source} cannot be used: it has '
                "timm's names, and mmpretrain's DeiT3 computes something else "
                'from the same weights (it applies ln1 where DeiT III applies '
                'ln2). Use a TimmTeacher.')
        return weights, layout

    def extract_features(
            self, images: torch.Tensor,
            ids_keep: Optional[torch.Tensor]) -> Tuple[torch.Tensor, ...]:
        """See :meth:`Teacher.extract_features`."""
        # Masked backbones would draw a mask of their own without the None.
        masked = isinstance(self.network, (MAEViT, MAEHiViT))
        with self.visible.only(ids_keep):
            _, features = self.recorder.record(self.network, images,
                                               *([None] if masked else []))
        return features
