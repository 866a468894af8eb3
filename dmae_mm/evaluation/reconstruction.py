"""What a masked autoencoder makes of images, as pixels."""
import contextlib
import itertools
from dataclasses import dataclass
from typing import (Any, Dict, Iterable, Iterator, List, Optional, Sequence,
                    Tuple)

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from mmpretrain.models.heads import MAEPretrainHead
from mmpretrain.models.necks import MAEPretrainDecoder
from torch.overrides import TorchFunctionMode

from dmae_mm.models.checks import check_mask_ratio
from dmae_mm.models.distillation import Distillation
from dmae_mm.models.students import MASKED_STUDENTS
from dmae_mm.models.tokens import first_ids
from dmae_mm.weights import TensorFile, read_tensor_file

from .images import EvaluationPipeline
from .trained_models import (build_pretraining_model, in_eval_mode,
                             load_whole, move, read_loader, read_model)

HIDDEN = 76  # grey value of hidden patches
NOT_FINITE = (255, 0, 255)  # colour of predictions that are no numbers


@dataclass(frozen=True)
class Reconstruction:
    """One image, what was visible of it, and what a model made of that.

    Attributes:
        original (np.ndarray): (H, W, 3), uint8, RGB.
        masked (np.ndarray): The same with hidden patches in grey.
        reconstructed (np.ndarray): The visible patches of the original beside
            the predicted ones, clipped to 0 to 255. Values that are not
            finite are magenta; what was not predicted is grey.
        num_visible (int): Number of visible patches.
        num_patches (int): Number of all patches.
        channels (int): Of the model's images.
        shown (tuple[int, int, int]): Which of them are red, green and blue
            here.
        norm_pix (bool): Whether patches are predicted up to their mean and
            variance, which were then taken from the original.
        similarity (dict[str, np.ndarray]): For each aligned pair, such as
            's8_t17', or of several teachers 'dino_s8_t8', the cosine between
            the projected student's token and the teacher's, (rows, columns),
            float32; NaN where hidden. Empty without teacher, and where
            relations or outputs of decoders are compared.
    """
    original: np.ndarray
    masked: np.ndarray
    reconstructed: np.ndarray
    num_visible: int
    num_patches: int
    channels: int
    shown: Tuple[int, int, int]
    norm_pix: bool
    similarity: Dict[str, np.ndarray]


def reconstruct_with_checkpoint(
    config: str,
    checkpoint: str,
    images: Sequence[str],
    mask_ratio: Optional[Sequence[float]] = None,
    seed: int = 0,
    similarity: bool = False,
    crop_pct: float = 0.875,
    value_range: Optional[Sequence[float]] = None,
    device: Optional[str] = None,
    cfg_options: dict = dict()
) -> Tuple[List[Tuple[Reconstruction, ...]], TensorFile]:
    """Reconstruct image files by a model that was trained.

    Args: As ``tools/visualize_reconstruction.py --help`` says.

    Returns:
        tuple[list, TensorFile]: For each image, a reconstruction at each
        ratio; and what the checkpoint says about itself.

    Raises:
        ValueError: If an option, the model, the checkpoint or an image cannot
            be used.
        OSError: If a file cannot be found, read or fetched.
    """
    model = build_pretraining_model(
        read_model(config, cfg_options), config, similarity)
    check_reconstructs(model)
    if similarity and not any(map(_has_maps, model.distillations)):
        raise ValueError(
            f'The config {config} compares no projected features of single '
            'patches, so there are no maps of them. Leave out --similarity.')
    ratios = mask_ratio or [model.backbone.mask_ratio]
    for ratio in ratios:
        model.backbone.mask_ratio = ratio
        check_mask_ratio(model.backbone, has_teacher=False)
    pipeline = EvaluationPipeline.of(
        model.backbone, crop_pct,
        read_loader(config, cfg_options, value_range))
    pixels = pipeline.read(images)['inputs']
    file = read_tensor_file(checkpoint)
    load_whole(model, file, config)
    if similarity:
        for teacher in model.teachers.values():
            teacher.init_weights()
    move(model, device)
    columns = []
    for ratio in ratios:
        model.backbone.mask_ratio = ratio
        columns.append(reconstruct(model, pixels, seed))
    return list(zip(*columns)), file


def check_reconstructs(model: nn.Module) -> None:
    """Refuse models that do not predict pixels of masked patches.

    Args:
        model (nn.Module): The model.

    Raises:
        ValueError: If it is not a :class:`DMAE` or MAE with the usual parts.
    """
    for part, classes in (('backbone', MASKED_STUDENTS),
                          ('neck', (MAEPretrainDecoder, )),
                          ('head', (MAEPretrainHead, ))):
        module = getattr(model, part, None)
        if not isinstance(module, classes):
            kind = 'None' if module is None else f'a {type(module).__name__}'
            raise ValueError(
                f'model.{part} is {kind}, but pixels are '
                'reconstructed by a masked autoencoder, whose '
                f'{part} is a {" or ".join(c.__name__ for c in classes)}.')


@torch.no_grad()
def reconstruct(model: nn.Module,
                images: Iterable[torch.Tensor],
                seed: int = 0) -> List[Reconstruction]:
    """Mask images and have them reconstructed, as a training step does it.

    The model's own ``loss()`` is run in eval mode, so that what is shown is
    what the losses are computed from, and so that it works with sharded
    parameters. In that mode a :class:`CrossAttentionDecoder` predicts all
    hidden patches. Image i has the same mask in every call, on every device
    and in any company: it is drawn by a generator of its own with the seed
    ``seed + i``, and for a higher mask ratio hides further patches.

    The model is left as it was, each module in its mode, and no number is
    drawn from PyTorch's generators. The images are run one by one, so that
    this needs less memory than a training step.

    Args:
        model (nn.Module): A :class:`DMAE` or mmpretrain's ``MAE``.
        images (Iterable[torch.Tensor]): Images of the model's size as
            :class:`EvaluationPipeline` reads them: (C, H, W), uint8, BGR.
        seed (int): Of the masks. Defaults to 0.

    Returns:
        list[Reconstruction]: One an image.

    Raises:
        ValueError: If the model does not predict pixels of masked patches,
            draws its mask in another way than mmpretrain's MAE, or does
            something else to the images than to normalise them.
    """
    check_reconstructs(model)
    # A compiled part would be compiled anew for these shapes.
    with in_eval_mode(model), torch.compiler.set_stance('force_eager'):
        return [
            _reconstruct_one(model, image, seed + index)
            for index, image in enumerate(images)
        ]


def _reconstruct_one(model: nn.Module, image: torch.Tensor,
                     seed: int) -> Reconstruction:
    inputs = model.data_preprocessor(
        dict(inputs=image[None], data_samples=None))['inputs']
    original = _pixels(model, inputs)  # (1, C, H, W)
    _check_normalised(model, original, image)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, model.backbone.num_patches, generator=generator)
    with _recorded(model) as seen, _MaskNoise(noise) as mask_noise:
        model(inputs, None, mode='loss')
    if not mask_noise.was_used:
        raise ValueError(
            f'model.backbone, a {type(model.backbone).__name__}, does not '
            "draw its mask as mmpretrain's MAEViT and MAEHiViT do, so it "
            'cannot be given a fixed one.')
    latent, mask, ids_restore = seen['backbone']
    num_visible = latent.shape[1] - model.backbone.num_extra_tokens
    ids_keep = first_ids(ids_restore, num_visible)  # (1, K)

    pixels = model.head.patchify(original)  # (1, L, p * p * C)
    visible = mask[..., None] == 0  # (1, L, 1)
    grey = torch.full_like(pixels, HIDDEN)
    pred, is_predicted = _predicted_pixels(model, inputs, seen['neck'])
    predicted = torch.where(is_predicted, pred, grey)
    return Reconstruction(
        *(_to_image(model, patches)
          for patches in (pixels, torch.where(visible, pixels, grey),
                          torch.where(visible, pixels, predicted))),
        num_visible=num_visible,
        num_patches=mask.shape[1],
        channels=original.shape[1],
        shown=_shown(original.shape[1]),
        norm_pix=model.head.norm_pix,
        similarity={
            name: _similarity_map(*pair, ids_keep, mask.shape[1])
            for name, pair in seen['pairs'].items()
        })


@contextlib.contextmanager
def _recorded(model: nn.Module) -> Iterator[Dict[str, Any]]:
    """Record what the parts of a model hand on during a step.

    Yields:
        dict: What 'backbone' and 'neck' return; and in 'pairs', for each
        aligned pair, such as 's8_t17', the projected student's and the
        teacher's tokens as the loss gets them, (B, N, C). Pairs of relations
        and of decoders are left out: they are not alike or not alone of
        visible patches.
    """
    seen: Dict[str, Any] = dict(pairs={})
    handles = [
        getattr(model, part).register_forward_hook(
            lambda module, args, output, part=part: seen.update({part: output})
        ) for part in ('backbone', 'neck')
    ]
    for part in filter(_has_maps, getattr(model, 'distillations', ())):
        names = iter(part.loss_names)
        handles.append(
            part.loss.register_forward_pre_hook(
                lambda module, args, names=names: seen['pairs'].update({
                    # Behind the pairs, a generator's tokens are compared.
                    name.removeprefix('loss_align_'): args
                    for name in itertools.islice(names, 1)
                })))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _has_maps(part: Distillation) -> bool:
    """Whether tokens of visible patches are compared, each with its own."""
    return part.neck is not None and part.tap == 'block'


class _MaskNoise(TorchFunctionMode):
    """Hands out given numbers where a backbone asks for random ones.

    MAE shows the patches of the smallest of L random numbers.

    Args:
        noise (torch.Tensor): What ``torch.rand`` of this shape returns.
    """

    def __init__(self, noise: torch.Tensor) -> None:
        super().__init__()
        self.noise = noise
        self.was_used = False

    def __torch_function__(self,
                           func: Any,
                           types: Any,
                           args: tuple = (),
                           kwargs: Optional[dict] = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.rand and args == tuple(self.noise.shape):
            self.was_used = True
            return self.noise.to(kwargs.get('device'))
        return func(*args, **kwargs)


def _predicted_pixels(model: nn.Module, inputs: torch.Tensor,
                      output: Any) -> Tuple[torch.Tensor, torch.Tensor]:
    """Pixel values of patches, (1, L, p * p * C), and which were predicted.

    With ``norm_pix``, patches are predicted up to their mean and variance:
    those of the original patches are put in.
    """
    target = model.head.patchify(inputs)  # (1, L, p * p * C)
    if isinstance(output, tuple):  # of a CrossAttentionDecoder
        values, ids = output
        pred = torch.zeros_like(target).scatter(
            1, ids[..., None].expand_as(values), values.to(target.dtype))
        is_predicted = torch.zeros_like(
            target[..., :1], dtype=torch.bool).scatter(1, ids[..., None], True)
    else:
        pred = output.to(target.dtype)
        is_predicted = torch.ones_like(target[..., :1], dtype=torch.bool)
    if model.head.norm_pix:  # the inverse of construct_target()
        mean = target.mean(dim=-1, keepdim=True)
        var = target.var(dim=-1, keepdim=True)
        pred = pred * (var + 1e-6)**0.5 + mean
    pixels = _pixels(model, model.head.unpatchify(pred))
    return model.head.patchify(pixels), is_predicted


def _pixels(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Undo the normalisation: values from 0 to 255; three are RGB."""
    preprocessor = model.data_preprocessor
    images = images.float()
    if getattr(preprocessor, '_enable_normalize', False):
        images = images * preprocessor.std + preprocessor.mean
    is_rgb = getattr(preprocessor, '_channel_conversion',
                     getattr(preprocessor, 'to_rgb', False))
    return images if is_rgb or images.shape[1] != 3 else images.flip(1)


def _check_normalised(model: nn.Module, recovered: torch.Tensor,
                      image: torch.Tensor) -> None:
    as_read = recovered[0].cpu()
    if len(as_read) == 3:
        as_read = as_read.flip(0)  # to BGR
    if as_read.shape != image.shape or (as_read - image).abs().max() > 1:
        raise ValueError(
            f'model.data_preprocessor, a '
            f'{type(model.data_preprocessor).__name__}, does something else '
            'to the images than to normalise them by mean and std and to '
            'reverse their channels, so pixels cannot be recovered. Use '
            'SelfSupDataPreprocessor.')


def _shown(channels: int) -> Tuple[int, int, int]:
    """Which of the channels are drawn in red, green and blue."""
    return (0, 1, 2) if channels >= 3 else (0, 0, 0)


def _to_image(model: nn.Module, patches: torch.Tensor) -> np.ndarray:
    """(H, W, 3), uint8, from patches, (1, L, p * p * C)."""
    image = model.head.unpatchify(patches)[0].permute(1, 2, 0).cpu()
    image = image[..., list(_shown(image.shape[-1]))]
    finite = image.isfinite()
    image = image.nan_to_num().round().clamp(0, 255).to(torch.uint8)
    return torch.where(finite, image,
                       torch.tensor(NOT_FINITE, dtype=torch.uint8)).numpy()


def _similarity_map(student: torch.Tensor, teacher: torch.Tensor,
                    ids_keep: torch.Tensor, num_patches: int) -> np.ndarray:
    """Cosines of the visible patches' tokens, where they lie.

    Of tokens (1, N, C), perhaps CLS and then the K visible patches, and of
    the indices of these, (1, K): (sqrt(L), sqrt(L)), float32.
    """
    cosine = F.cosine_similarity(student.float(), teacher.float(), dim=-1)
    cosine = cosine[0, cosine.shape[1] - ids_keep.shape[1]:]  # without CLS
    values = torch.full((num_patches, ), float('nan'))
    values[ids_keep[0].cpu()] = cosine.cpu()
    side = round(num_patches**0.5)
    return values.view(side, side).numpy()
