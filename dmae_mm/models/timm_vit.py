from math import prod
from typing import List, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from timm.layers import resample_abs_pos_embed

from dmae_mm.messages import first_few
from dmae_mm.options import reject_unknown_options
from dmae_mm.weights import TensorFile, read_tensor_file
from dmae_mm.weights.misfits import strict_misfits
from dmae_mm.weights.names import TIMM_MODEL
from dmae_mm.weights.origin import origin_of, square
from dmae_mm.weights.positions import other_grid, other_heads
from dmae_mm.weights.tensor_file import Tensors

from .timm_vits import convert_weights, create_model, num_positions
from .tokens import without_registers

# What is said by options of our own, or would work against them.
_NOT_IN_KWARGS = dict(
    img_size="the backbone's own option img_size",
    num_classes='nothing: there is no classifier',
    patch_drop_rate="the mask_ratio of a MaskedTimmViT",
    dynamic_img_size='nothing: its images have one size, img_size')
# In front of the first block, by the beginning of their names.
_STEM = ('cls_token', 'reg_token', 'dist_token', 'pos_embed', 'patch_embed.',
         'norm_pre.', 'rope.')


@MODELS.register_module()
@reject_unknown_options
class TimmViT(BaseModule):
    """A vision transformer of timm as backbone of a classifier.

    It is to timm's models what ``VisionTransformer`` is to mmpretrain's: it
    pools, can be frozen, and knows its layers for a layer-wise decay of the
    learning rate. mmpretrain's ``TIMMBackbone`` does none of these::

        model.backbone = dict(
            type='TimmViT',
            model_name='vit_tiny_patch16_224',
            model_kwargs=dict(drop_path_rate=0.1),
            init_cfg=dict(type='Pretrained', checkpoint='epoch_100.pth'))

    Supported are timm's plain ``VisionTransformer`` and ``Eva``, with or
    without CLS and registers, with absolute or rotary positions. Everything
    is timm's own. The model of timm is the attribute ``timm_model``, as in
    ``TIMMBackbone``, so that both have the same names of weights.

    In shapes, B are images, L their patches, C channels, and E is 1 with a
    CLS token, 0 without. Registers, and DeiT's distillation token, take part
    in the blocks, whose outputs are (B, P + L, C) with the P prefix tokens
    first; what this module returns has none of them.

    Args:
        model_name (str): As in ``timm.create_model``. A tag, such as '.mae',
            loads no weights.
        img_size (int | tuple[int, int], optional): Height and width of the
            images in pixels, multiples of the patch size. Defaults to None,
            the model's own.
        model_kwargs (dict): Further arguments of ``timm.create_model``, such
            as ``in_chans``, ``patch_size`` or ``drop_path_rate``. Defaults to
            {}.
        out_type (str): As of mmpretrain's ``VisionTransformer``: 'raw', all
            tokens, (B, E + L, C); 'cls_token', (B, C); 'avg_featmap', the
            mean of the patches, (B, C); or 'featmap', (B, C, rows, columns).
            Defaults to 'avg_featmap'.
        frozen (bool): Whether nothing of it is trained: it is then always in
            eval mode, without gradients. Defaults to False.
        init_cfg (dict, optional): None initialises as timm does.
            ``dict(type='Pretrained', checkpoint=...)`` takes the weights of a
            file with the names of timm, of what timm converts, of this class,
            a :class:`MaskedTimmViT` or ``TIMMBackbone``, or of a plain ViT of
            mmpretrain; ``.pth`` or ``.safetensors``, a path or an http(s)
            URL. The file must hold all weights. Positions are resampled to
            this grid of patches by timm's function. Defaults to None.

    Attributes:
        timm_model (nn.Module): The model of timm, without classifier.
        embed_dims (int): C.
        num_prefix_tokens (int): P.
        num_extra_tokens (int): E.
        num_patches (int): L.
        patch_resolution (tuple[int, int]): Rows and columns of patches.
        img_size (tuple[int, int]): Height and width of the images.

    Raises:
        ValueError: If timm has no such model, it is not supported, or an
            option has an illegal value.
    """
    OUT_TYPES = ('raw', 'cls_token', 'avg_featmap', 'featmap')

    def __init__(self,
                 model_name: str,
                 img_size: Optional[Union[int, Tuple[int, int]]] = None,
                 model_kwargs: dict = dict(),
                 out_type: str = 'avg_featmap',
                 frozen: bool = False,
                 init_cfg: Optional[dict] = None) -> None:
        _check_kwargs(model_kwargs)
        _check_init_cfg(init_cfg)
        super().__init__(init_cfg)
        size = {} if img_size is None else dict(
            img_size=img_size if isinstance(img_size, int) else
            tuple(img_size))
        kwargs = dict(model_kwargs, **size)
        # Another kind of model may not have the options that are set below.
        with torch.device('meta'), torch.random.fork_rng(devices=[]):
            create_model(model_name, kwargs, 'backbone')
        network = create_model(
            model_name, dict(kwargs, num_classes=0, dynamic_img_size=False),
            'backbone')
        network.reset_classifier(0, '')  # as TIMMBackbone does
        self.timm_model = network
        self.model_name = model_name
        self.model_kwargs = dict(model_kwargs)
        self.embed_dims = network.embed_dim
        self.num_prefix_tokens = network.num_prefix_tokens
        self.num_extra_tokens = int(network.cls_token is not None)
        embed = network.patch_embed
        self.num_patches = embed.num_patches
        self.patch_resolution = tuple(embed.grid_size)
        self.img_size = tuple(embed.img_size)
        _check_img_size(self)
        if out_type not in self.OUT_TYPES or (
                out_type == 'cls_token' and not self.num_extra_tokens):
            legal = self.OUT_TYPES if self.num_extra_tokens else [
                name for name in self.OUT_TYPES if name != 'cls_token']
            raise ValueError(
                f'backbone: out_type={out_type!r} does not exist for '
                f'{model_name!r}. Choose one of {", ".join(legal)}.')
        self.out_type = out_type
        self.frozen = frozen
        if frozen:
            self.requires_grad_(False)
            self.train(False)

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The blocks."""
        return self.timm_model.blocks

    @property
    def patch_embed(self) -> nn.Module:
        """What makes tokens of patches."""
        return self.timm_model.patch_embed

    def init_weights(self) -> None:
        """Initialise as timm does, or from the file of ``init_cfg``.

        Raises:
            OSError: If there is no such file, or it cannot be fetched.
            ValueError: If it is not exactly of this model.
        """
        self.timm_model.init_weights()
        if self.init_cfg:
            try:
                file = read_tensor_file(self.init_cfg['checkpoint'])
                weights = self.weights_of(file)
            except (OSError, ValueError) as error:
                raise type(error)('model.backbone.init_cfg.checkpoint: '
                                  f'{error}') from None
            self.load_state_dict(weights)
            print_log(
                f'Backbone: {len(weights)} tensors from {file.source} (sha256 '
                f'{file.sha256[:8]}).',
                logger='current')
        self._is_init = True

    def weights_of(self, file: TensorFile) -> Tensors:
        """A file's weights under the names of this module.

        Args:
            file (TensorFile): See ``init_cfg``.

        Returns:
            dict[str, torch.Tensor]: Exactly those of ``state_dict()``.

        Raises:
            ValueError: If it is not a file of this model.
        """
        weights, _ = convert_weights(file, self.timm_model, 'student')
        problems = self._fit_positions(weights, file)
        problems += strict_misfits(weights, self.timm_model)
        problems += other_heads(self, origin_of(file.meta, file.tensors))
        if problems:
            raise ValueError(
                f"{file.source} does not fit timm's {self.model_name} with "
                f'img_size={self.img_size} and model_kwargs='
                f'{self.model_kwargs}: {first_few(problems, 5, "; ")}. Give a '
                'checkpoint of this architecture, or the architecture of this '
                'checkpoint in model_name and model_kwargs.')
        return {f'{TIMM_MODEL}{k}': tensor for k, tensor in weights.items()}

    def _fit_positions(self, weights: Tensors, file: TensorFile) -> List[str]:
        """Resample positions of another grid of patches.

        Args:
            weights (dict[str, torch.Tensor]): Under timm's names. Changed in
                place.
            file (TensorFile): Where they are from.

        Returns:
            list[str]: Why they cannot be, if so.
        """
        own, given = self.timm_model.pos_embed, weights.get('pos_embed')
        if own is None or given is None or given.dim() != 3:
            return []
        grid, origin = self.patch_resolution, origin_of(
            file.meta, file.tensors)
        num_prefix = own.shape[1] - prod(grid)
        number = num_positions(file, num_prefix)
        if number != given.shape[1] - num_prefix:
            return []  # timm's filter has resampled them
        source = origin.grid(number)
        if source is None:
            if number == prod(grid):
                return other_grid(grid, origin)
            source = square(number)
        if source is None:
            return [f'its positions are of {number} patches, which are no '
                    'square, and it does not say of which rows and columns']
        if source != grid:
            weights['pos_embed'] = resample_abs_pos_embed(
                given, grid, source, num_prefix)
        return []

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor]:
        """Features of images.

        Args:
            x (torch.Tensor): Normalised images, (B, 3, H, W).

        Returns:
            tuple[torch.Tensor]: One tensor, as ``out_type`` says.
        """
        tokens = self.tokens(x)
        patches = tokens[:, self.num_extra_tokens:]
        if self.out_type == 'raw':
            return (tokens, )
        if self.out_type == 'cls_token':
            return (tokens[:, 0], )
        if self.out_type == 'avg_featmap':
            return (patches.mean(dim=1), )
        return (patches.transpose(1, 2).unflatten(
            2, self.patch_resolution).contiguous(), )

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        """All tokens but registers, behind the last block and the norm.

        Args:
            images (torch.Tensor): Normalised images, (B, 3, H, W).

        Returns:
            torch.Tensor: (B, E + L, C), CLS first, the patches row by row.
        """
        network = self.timm_model
        # Of the norm behind all blocks and the one behind average pooling, a
        # model has one; here, as in TIMMBackbone, each norms every token.
        tokens = network.fc_norm(network.forward_features(images))
        return without_registers(tokens, self.num_prefix_tokens,
                                 bool(self.num_extra_tokens))

    def train(self, mode: bool = True) -> 'TimmViT':
        """As always, but what is frozen stays in eval mode."""
        return super().train(mode and not self.frozen)

    def get_layer_depth(self,
                        param_name: str,
                        prefix: str = '') -> Tuple[int, int]:
        """Which layer a parameter belongs to, as in ``VisionTransformer``.

        Args:
            param_name (str): Its name.
            prefix (str): What is in front of the backbone's own names.
                Defaults to ''.

        Returns:
            tuple[int, int]: 0 for what is in front of the blocks, i + 1 for
            block i, one more for what is behind them; and how many there are.
        """
        num_layers = len(self.layers) + 2
        name = param_name.removeprefix(f'{prefix}{TIMM_MODEL}')
        if name != param_name and name.startswith(_STEM):
            return 0, num_layers
        if name != param_name and name.startswith('blocks.'):
            return int(name.split('.')[1]) + 1, num_layers
        return num_layers - 1, num_layers


def _check_img_size(backbone: TimmViT) -> None:
    """Refuse images whose last row or column would never be seen."""
    embed = backbone.patch_embed
    fitting = tuple(rows * pixels for rows, pixels in zip(
        embed.grid_size, embed.patch_size))
    if fitting != backbone.img_size:
        raise ValueError(
            f'backbone: img_size={backbone.img_size} is no multiple of the '
            f'patch size {tuple(embed.patch_size)} of '
            f'{backbone.model_name!r}. Give img_size={fitting}.')


def _check_kwargs(model_kwargs: dict) -> None:
    for name, instead in _NOT_IN_KWARGS.items():
        if name in model_kwargs:
            raise ValueError(
                f'backbone.model_kwargs: {name}={model_kwargs[name]!r} must '
                f'not be given. Give {instead}.')


def _check_init_cfg(init_cfg: Optional[dict]) -> None:
    if init_cfg is None or (isinstance(init_cfg, dict)
                            and init_cfg.keys() == {'type', 'checkpoint'}
                            and init_cfg['type'] == 'Pretrained'):
        return
    raise ValueError(
        f'backbone: init_cfg={init_cfg!r} is neither None, which initialises '
        "as timm does, nor dict(type='Pretrained', checkpoint=PATH_OR_URL), "
        'which finds the names by itself.')
