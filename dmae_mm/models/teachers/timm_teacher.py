from math import prod
from typing import Dict, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
from mmpretrain.registry import MODELS
from timm.layers import resample_abs_pos_embed
from timm.models.eva import EvaBlockPostNorm
from timm.models.vision_transformer import ResPostBlock

from dmae_mm.models.qkv_layers import (UpToQKV, check_tap, qkv_layers,
                                       shared_num_heads)
from dmae_mm.models.student_input import StudentInput
from dmae_mm.models.timm_vits import (convert_weights, create_model,
                                      fetch_from_hub, num_positions,
                                      pretrained_source, read_description,
                                      show_only_visible)
from dmae_mm.models.tokens import OutputRecorder, resolve_block
from dmae_mm.options import reject_unknown_options
from dmae_mm.weights import TensorFile
from dmae_mm.weights.formats import TranslatedFile
from dmae_mm.weights.origin import origin_of
from dmae_mm.weights.positions import other_grid, other_heads

from .teacher import Teacher, fixed_seed
from .teacher_weights import refuse_other_meaning, take_weights


@MODELS.register_module()
@reject_unknown_options
class TimmTeacher(Teacher):
    """A vision transformer of timm as teacher.

    Supported is every model of timm that is a plain ``VisionTransformer``
    (MAE, supervised, DeiT, DeiT III, CLIP, SigLIP, DINOv2 with and without
    registers, ...) or an ``Eva`` (EVA, EVA-02, DINOv3, ...). Everything is
    timm's own: a module in the place of ``patch_drop`` keeps the visible
    patches and, where there are any, their rotary embeddings;
    ``prune_intermediate_layers`` drops what never runs; ``set_input_size``
    and the model's checkpoint filter resample position embeddings.

    Args:
        aligned_blocks (Sequence[int | float]): Teacher block of each aligned
            pair: see :func:`resolve_block`. A :class:`Distillation` fills it
            in.
        model_name (str, optional): As in ``timm.create_model``, for example
            'vit_large_patch16_224.mae'. Defaults to None: what the
            ``config.json`` in the folder of ``checkpoint`` describes, as
            Hugging Face transformers writes it.
        student_input (StudentInput, optional): Filled in likewise. With None
            the teacher takes images of its own size. Defaults to None.
        checkpoint (str, optional): Path or http(s) URL of the weights: a file
            of timm, one that timm converts (the original files of many
            models), a plain ViT of mmpretrain, such as a student of this
            package, a model of Hugging Face transformers, as a folder or a
            file, or one of torchvision, open_clip, FAIR or NVIDIA, as
            ``docs/teachers.md`` lists them; ``.pth``, ``.bin`` or
            ``.safetensors``. Defaults to None.
        pretrained (bool): Take the weights that timm names for this model,
            from the Hugging Face hub (its cache works offline) or from their
            URL. Defaults to False.
        model_kwargs (dict): Further arguments of ``timm.create_model``; of
            a folder, beside those that follow from it. They describe the
            model of the checkpoint. Defaults to {}.
        img_size (int, optional): Height and width, in pixels and a multiple
            of the patch size, to which the images of a student without
            patches are resized; positions are resampled. Defaults to None:
            those of the model. Students with patches have their own grid.
        sha256 (str, optional): See :class:`Teacher`, as the following.
        mean (Sequence[float], optional): Defaults to what the checkpoint
            says (those of this package do), or else to that of timm's
            ``pretrained_cfg`` for this model, times 255.
        std (Sequence[float], optional): Likewise.
        dtype (str): Defaults to 'float32'.
        channels (Sequence[int], optional): See :class:`Teacher`.
        tap (str): See :class:`MMPretrainTeacher`. Defaults to 'block'.
        allow_random (bool): Teach with random weights (drawn with a fixed
            seed). Defaults to False.

    Raises:
        FileNotFoundError: If there is no ``model_name`` and no folder.
        ValueError: If timm has no such model, it is not supported, a block
            does not exist, both or neither of ``checkpoint`` and
            ``pretrained`` are given, blocks have no ``qkv`` layer for
            ``tap='qkv'``, or the folder does not say what ``model_name`` or
            ``mean`` leave open.
    """

    taps = ('block', 'qkv')
    reads_timm = True

    def __init__(self,
                 aligned_blocks: Sequence[Union[int, float]],
                 model_name: Optional[str] = None,
                 student_input: Optional[StudentInput] = None,
                 checkpoint: Optional[str] = None,
                 pretrained: bool = False,
                 model_kwargs: dict = dict(),
                 img_size: Optional[int] = None,
                 sha256: Optional[str] = None,
                 mean: Optional[Sequence[float]] = None,
                 std: Optional[Sequence[float]] = None,
                 dtype: str = 'float32',
                 channels: Optional[Sequence[int]] = None,
                 tap: str = 'block',
                 allow_random: bool = False) -> None:
        check_tap(tap, self.taps)
        if model_name is None:
            found = read_description(checkpoint, None not in (mean, std))
            model_name = found['model_name']
            model_kwargs = dict(found['model_kwargs'], **model_kwargs)
            mean, std = found.get('mean', mean), found.get('std', std)
        # As its checkpoint has it: whole, with its own grid of patches.
        with torch.device('meta'), torch.random.fork_rng(devices=[]):
            whole = create_model(model_name, model_kwargs)
        pretrained_cfg = whole.pretrained_cfg
        if pretrained and checkpoint is not None:
            raise ValueError(f'teacher: checkpoint={checkpoint!r} and '
                             'pretrained=True. Give one of them.')
        if pretrained:
            checkpoint = pretrained_source(model_name, pretrained_cfg)
        described = (
            mean is None and std is None and bool(pretrained_cfg.get('mean')))
        if described:
            mean, std = ([255 * value for value in pretrained_cfg[name]]
                         for name in ('mean', 'std'))
        num_layers = len(whole.blocks)
        blocks = tuple(
            resolve_block(index, num_layers, 'teacher')
            for index in aligned_blocks)

        # A student without patches may have images of any size; else they
        # have one, whatever timm's recipe expects.
        any_grid = student_input is not None and (
            student_input.img_size is None)
        with fixed_seed():
            network = create_model(
                model_name, dict(model_kwargs, dynamic_img_size=any_grid))
        network.prune_intermediate_layers(
            [max(blocks)], prune_norm=True, prune_head=True)
        tapped = [network.blocks[index] for index in blocks]
        num_heads = None
        if tap == 'qkv':
            tapped = _qkv_layers(model_name, tapped)
            num_heads = shared_num_heads(network.blocks[i] for i in blocks)
            network.blocks[-1] = UpToQKV(network.blocks[-1])
        embed = network.patch_embed
        height, width = embed.patch_size
        grid = embed.grid_size
        if img_size is not None:
            _check_img_size(img_size, student_input, embed.patch_size)
            grid = img_size // height, img_size // width
        elif student_input is not None:
            grid = student_input.teacher_grid(grid, embed.patch_size)
        if tuple(grid) != embed.grid_size:
            network.set_input_size(
                img_size=(grid[0] * height, grid[1] * width))
        show_only_visible(network)
        super().__init__(
            network=network,
            aligned_blocks=blocks,
            embed_dims=network.embed_dim,
            num_layers=num_layers,
            num_prefix_tokens=network.num_prefix_tokens,
            has_cls_token=network.cls_token is not None,
            img_size=embed.img_size,
            patch_grid=embed.grid_size,
            in_channels=embed.proj.in_channels,
            checkpoint=checkpoint,
            sha256=sha256,
            mean=mean,
            std=std,
            dtype=dtype,
            channels=channels,
            student_input=student_input,
            any_grid=any_grid,
            allow_random=allow_random)
        if described:
            self.described_by = f'timm says of {model_name}'
        self.num_heads = num_heads
        self.recorder = OutputRecorder(tapped)
        self.model_name = model_name
        self._model_kwargs = dict(model_kwargs)

    def locate_checkpoint(self) -> str:
        """See :meth:`Teacher.locate_checkpoint`."""
        if self.checkpoint.startswith('hf-hub:'):
            return fetch_from_hub(self.checkpoint,
                                  self.network.pretrained_cfg)
        return self.checkpoint

    def load_weights(self, file: TensorFile) -> None:
        """Fill the model from a checkpoint, strictly.

        Args:
            file (TensorFile): The tensors of ``checkpoint``.

        Raises:
            ValueError: If a needed tensor is missing, has another shape or
                values that are not finite, or if the file has another number
                of blocks or tensors that this model does not have. Nothing
                is loaded then.
        """
        kwargs = self._model_kwargs
        if isinstance(file, TranslatedFile) and file.format.resample:
            kwargs = dict(kwargs, img_size=self.img_size)  # no detour
        with torch.device('meta'), torch.random.fork_rng(devices=[]):
            whole = create_model(self.model_name, kwargs)
        shapes = {name: t.shape for name, t in whole.state_dict().items()}
        weights, layout = convert_weights(file, whole)
        needed = {name: shapes[name] for name in self.network.state_dict()}
        weights = take_weights(
            file, layout, weights, needed, shapes.keys(), self.dtype,
            f"timm's {self.model_name} of {self.num_layers} blocks, "
            f'{self.embed_dims} wide, with model_kwargs={self._model_kwargs}',
            'teacher.model_name and teacher.model_kwargs')
        origin = origin_of(file.meta, file.tensors)
        problems = other_heads(self.network, origin)
        grid = whole.patch_embed.grid_size
        if 'pos_embed' in weights and num_positions(
                file, shapes['pos_embed'][1] - prod(grid)) == prod(grid):
            problems += other_grid(grid, origin)
        refuse_other_meaning(file, problems, 'teacher.model_kwargs')
        if grid != self.patch_grid:
            self._resample_positions(weights, grid)
        self.network.load_state_dict(weights)

    def _resample_positions(self, weights: Dict[str, torch.Tensor],
                            grid: Tuple[int, int]) -> None:
        """As ``set_input_size`` does, in the precision of the file."""
        if 'pos_embed' in weights:
            weights['pos_embed'] = resample_abs_pos_embed(
                weights['pos_embed'],
                new_size=self.patch_grid,
                old_size=grid,
                num_prefix_tokens=(0 if self.network.no_embed_class else
                                   self.num_prefix_tokens))

    def extract_features(
            self, images: torch.Tensor,
            ids_keep: Optional[torch.Tensor]) -> Tuple[torch.Tensor, ...]:
        """See :meth:`Teacher.extract_features`."""
        with self.network.patch_drop.only(ids_keep):
            _, features = self.recorder.record(self.network.forward_features,
                                               images)
        return features


def _check_img_size(img_size: int, student_input: Optional[StudentInput],
                    patch_size: Tuple[int, int]) -> None:
    if student_input is not None and (
            student_input.patch_grid or student_input.units):
        raise ValueError(
            f'teacher.img_size={img_size!r}, but the student has patches or '
            'regions, from whose grid the size of its images follows. Remove '
            'it.')
    if type(img_size) is not int or img_size < 1 or any(
            img_size % side for side in patch_size):
        raise ValueError(
            f'teacher.img_size={img_size!r} is no multiple of its patches, '
            f'{patch_size[0]} x {patch_size[1]} px.')


def _qkv_layers(model_name: str,
                blocks: Sequence[nn.Module]) -> Sequence[nn.Module]:
    """Those of aligned blocks; refused where there are none."""
    layers = qkv_layers(blocks)
    if layers is None or isinstance(blocks[0],
                                    (ResPostBlock, EvaBlockPostNorm)):
        raise ValueError(
            f'teacher: model_name={model_name!r} does not make q, k and v of '
            'normalised tokens in one layer (its blocks are '
            f'{type(blocks[0]).__name__}; qkv_fused=False and biases of q and '
            'v alone, as in EVA, make them apart), so their relations cannot '
            'be taken. Choose another model, or a distill_loss that compares '
            'the outputs of blocks.')
    return layers
