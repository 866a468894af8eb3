"""A masked autoencoder of a config, with the weights of a checkpoint."""
from typing import Optional, Tuple

import torch.nn as nn
from mmengine.config import Config

from dmae_mm.weights import TensorFile, mae_to_mmpretrain, read_tensor_file
from dmae_mm.host import build, quietly
from dmae_mm.messages import first_few
from dmae_mm.weights.misfits import strict_misfits
from dmae_mm.weights.check_transfer import read_toolbox_config
from dmae_mm.weights.names import Tensors, layout_of

from .feature_model import load_strictly


def read_model_config(path: str, cfg_options: dict) -> Config:
    """The model section of a config, as a runner builds it.

    Args:
        path (str): The config.
        cfg_options (dict): Changes to it.

    Returns:
        Config: The section.

    Raises:
        FileNotFoundError: If there is no such config.
        ValueError: If it cannot be read or has no model.
    """
    cfg = read_toolbox_config(path, cfg_options)
    if cfg.get('data_preprocessor') is not None:
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return cfg.model


def build_pretraining_model(model: Config,
                            path: str,
                            with_teacher: bool = False) -> nn.Module:
    """Build a model, without its teacher unless that is wanted.

    Args:
        model (Config): From :func:`read_model_config`.
        path (str): Of the config, for errors.
        with_teacher (bool): Whether to build the teacher. Defaults to False:
            its file is not needed then.

    Returns:
        nn.Module: The model, on the CPU.

    Raises:
        ValueError: If it cannot be built, or has no teacher that is wanted.
    """
    section = model.to_dict()
    if with_teacher and not section.get('teacher'):
        raise ValueError(f'The config {path} has no model.teacher, so there '
                         'is none to compare the student with.')
    if not with_teacher and 'teacher' in section:
        section.update(teacher=None, aligned_layers=[])
    return build(section, f'The model of {path}')


def load_pretrained(model: nn.Module, checkpoint: str,
                    path: str) -> TensorFile:
    """Fill encoder and decoder from a checkpoint, all of them.

    With a teacher, its projectors as well. Nothing in the file is executed.

    Args:
        model (nn.Module): From :func:`build_pretraining_model`.
        checkpoint (str): Path or http(s) URL of a checkpoint of mmpretrain or
            of this package, or of FAIR's MAE or the paper's public code.
        path (str): Of the config, for errors.

    Returns:
        TensorFile: What the file says about itself.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or refused, has no decoder, or is not
            exactly of this model. Nothing is loaded then.
        OSError: If it cannot be read or fetched.
    """
    file = read_tensor_file(checkpoint)
    tensors, has_decoder = _whole_model(file)
    if not has_decoder:
        raise ValueError(
            f'{file.source} has no decoder: it is an encoder alone, such as '
            'an exported or fine-tuned model, and cannot reconstruct '
            'anything. Give a checkpoint that pre-training has written '
            '(epoch_*.pth or iter_*.pth in its work dir).')
    if getattr(model, 'distill_neck', None) is None:
        tensors = {
            name: tensor
            for name, tensor in tensors.items()
            if not name.startswith('distill_neck.')
        }
    problems = strict_misfits(tensors, model)
    if problems:
        raise ValueError(
            f'{file.source} is no checkpoint of the model of {path}: '
            f'{first_few(problems, 5, "; ")}. Give the config that it was '
            'trained with; each run leaves it in its work dir.')
    model.load_state_dict(tensors)
    return file


def _whole_model(file: TensorFile) -> Tuple[Tensors, bool]:
    """Tensors under mmpretrain's names, and whether there is a decoder."""
    tensors = file.tensors
    if layout_of(tensors) == 'timm/MAE':
        try:
            tensors = mae_to_mmpretrain(tensors)
        except ValueError as error:
            raise ValueError(f'{file.source}: {error}') from None
    return tensors, any(
        name.startswith('neck.decoder_') for name in tensors)


def load_backbone(model: nn.Module, checkpoint: Optional[str],
                  path: str) -> Optional[str]:
    """Initialise a model, and fill its encoder if there is a checkpoint.

    Args:
        model (nn.Module): From :func:`build_pretraining_model`.
        checkpoint (str, optional): Path or http(s) URL of a checkpoint with
            the encoder, whatever else is in it.
        path (str): Of the config, for errors.

    Returns:
        str | None: SHA-256 of the checkpoint.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or refused, or not of this encoder.
        OSError: If it cannot be read or fetched.
    """
    with quietly():
        model.init_weights()
    if checkpoint is None:
        return None
    file = read_tensor_file(checkpoint)
    load_strictly(model.backbone, file, path)
    return file.sha256
