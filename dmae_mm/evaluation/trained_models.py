"""Models of a config with the weights of a checkpoint, of which nothing is
executed."""
import contextlib
from typing import Iterator, Optional, Sequence

import torch.nn as nn
from mmengine.device import get_device

from dmae_mm.datasets import LoadImageOrSkip
from dmae_mm.datasets.pipelines import loader_of_config
from dmae_mm.host import (build, complete_model, read_named_config,
                          without_teachers)
from dmae_mm.models import TimmViT
from dmae_mm.weights import (TensorFile, backbone_state_dict,
                             mae_to_mmpretrain)
from dmae_mm.weights.export.timm_maps import wrapped_names
from dmae_mm.weights.misfits import load_exactly
from dmae_mm.weights.names import TIMM_MODEL, timm_model_state_dict
from dmae_mm.weights.origin import origin_of
from dmae_mm.weights.positions import other_meaning


def read_model(config: str, cfg_options: dict = dict()) -> dict:
    """The model of a config, with the data preprocessor that a runner adds.

    Args:
        config (str): Path of a config, or a name of mmpretrain's model zoo.
        cfg_options (dict): Changes to it. Defaults to {}.

    Returns:
        dict: The section ``model``.

    Raises:
        FileNotFoundError: If there is no such config.
        ValueError: If it cannot be read or has no model.
    """
    cfg, _ = read_named_config(config, cfg_options)
    complete_model(cfg, config)
    return cfg.model.to_dict()


def read_loader(config: str,
                cfg_options: dict = dict(),
                value_range: Optional[Sequence[float]] = None
                ) -> LoadImageOrSkip:
    """How the training of a config decodes images.

    Args:
        config (str): As of :func:`read_model`.
        cfg_options (dict): Changes to it. Defaults to {}.
        value_range (Sequence[float], optional): Instead of the config's.
            Defaults to None.

    Returns:
        LoadImageOrSkip: With the options that it has in
        ``train_dataloader``.

    Raises:
        FileNotFoundError: If there is no such config.
        ValueError: If it cannot be read, or an option is not legal.
    """
    cfg, _ = read_named_config(config, cfg_options)
    loader = loader_of_config(cfg.get('train_dataloader'))
    return loader if value_range is None else LoadImageOrSkip(
        loader.max_pixels, loader.channels, value_range)


def build_pretraining_model(section: dict,
                            config: str,
                            with_teacher: bool = False) -> nn.Module:
    """Build a whole model, without its teacher unless that is wanted.

    Args:
        section (dict): From :func:`read_model`.
        config (str): Path of the config, for errors.
        with_teacher (bool): Whether to build the teacher. Defaults to False:
            its file is not needed then.

    Returns:
        nn.Module: The model, on the CPU.

    Raises:
        ValueError: If it cannot be built, or has no teacher that is wanted.
    """
    if with_teacher and not (section.get('teacher')
                             or section.get('teachers')):
        raise ValueError(f'The config {config} has no model.teacher, so there '
                         'is none to compare the student with.')
    if not with_teacher:
        section = without_teachers(section)
    return build(section, f'The model of {config}')


def load_whole(model: nn.Module, file: TensorFile, config: str) -> None:
    """Fill encoder and decoder, and with a teacher the projectors.

    Args:
        model (nn.Module): From :func:`build_pretraining_model`.
        file (TensorFile): A checkpoint of mmpretrain or of this package, or
            of FAIR's MAE or the paper's public code.
        config (str): Path of the config, for errors.

    Raises:
        ValueError: If the file has no decoder, or is not exactly of this
            model. Nothing is loaded then.
    """
    tensors = file.tensors
    try:
        if backbone_state_dict(tensors)[1] == 'timm/MAE':
            tensors = mae_to_mmpretrain(tensors)
    except ValueError as error:
        raise ValueError(f'{file.source}: {error}') from None
    if not any(name.startswith('neck.decoder_') for name in tensors):
        raise ValueError(
            f'{file.source} has no decoder: it is an encoder alone, such as '
            'an exported or fine-tuned model, and cannot reconstruct '
            'anything. Give a checkpoint that pre-training has written '
            '(epoch_*.pth or iter_*.pth in its work dir).')
    if not getattr(model, 'teachers', None):
        tensors = {
            name: tensor
            for name, tensor in tensors.items()
            if not name.startswith('distill_')
        }
    _load(model, tensors, file, f'the model of {config}')


def load_backbone(backbone: nn.Module,
                  file: TensorFile,
                  config: str,
                  resample: bool = False) -> None:
    """Fill an encoder from a checkpoint that has it, whatever else it has.

    Args:
        backbone (nn.Module): The encoder.
        file (TensorFile): The checkpoint, or a file exported from one.
        config (str): Path of the config, for errors.
        resample (bool): Whether a :class:`TimmViT` may have another grid of
            patches than the file. Defaults to False.

    Raises:
        ValueError: If it is not exactly of this encoder.
    """
    is_timms = hasattr(backbone, 'timm_model') and not timm_model_state_dict(
        file.tensors)
    if isinstance(backbone, TimmViT) and (resample or is_timms):
        backbone.load_state_dict(backbone.weights_of(file))
        return
    if is_timms:
        _load(backbone, _as_wrapped(backbone, file), file,
              f'model.backbone of {config}')
        return
    try:
        tensors, _ = backbone_state_dict(file.tensors)
    except ValueError as error:
        raise ValueError(f'{file.source}: {error}') from None
    _load(backbone, tensors, file, f'model.backbone of {config}')


def _as_wrapped(backbone: nn.Module, file: TensorFile) -> dict:
    """A file with timm's own names for a ``TIMMBackbone``, without what lies
    behind its last map."""
    own = backbone.state_dict()
    return {
        f'{TIMM_MODEL}{wrapped}': tensor
        for name, tensor in file.tensors.items()
        for wrapped in wrapped_names(name) if f'{TIMM_MODEL}{wrapped}' in own
    } or file.tensors


def _load(network: nn.Module, tensors: dict, file: TensorFile,
          whose: str) -> None:
    complaint = f'{file.source} is no checkpoint of {whose}'
    cure = ('Give the config that it was trained with; each run leaves it in '
            'its work dir.')
    problems = other_meaning(network, tensors,
                             origin_of(file.meta, file.tensors))
    if problems:
        raise ValueError(f'{complaint}: {"; ".join(problems)}. {cure}')
    load_exactly(network, tensors, complaint, cure)


def move(network: nn.Module, device: Optional[str]) -> None:
    """Move a network to a device, None for the one that there is.

    Raises:
        ValueError: If there is no such device.
    """
    try:
        network.to(device or get_device())
    except (AssertionError, RuntimeError) as error:  # by where torch notices
        raise ValueError(f'--device {device}: {error}') from None


@contextlib.contextmanager
def in_eval_mode(network: nn.Module) -> Iterator[None]:
    """Afterwards, each module is in the mode in which it was."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
