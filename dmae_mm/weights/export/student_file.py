"""The file of a student that every pre-training leaves."""
from dataclasses import dataclass
from typing import List

import safetensors.torch

from dmae_mm.files import write_whole
from dmae_mm.host import build, quietly, read_model_config
from dmae_mm.version import __version__

from ..misfits import load_exactly
from ..names import backbone_state_dict
from ..origin import origin_of
from ..tensor_file import read_tensor_file, save_tensors
from .export import export_checkpoint


@dataclass(frozen=True)
class StudentFile:
    """What was written.

    Attributes:
        names (str): Whose names of weights it has: 'timm' or the class of the
            backbone.
        usage (str): Code that loads it.
        notes (list[str]): What its user must know.
    """
    names: str
    usage: str
    notes: List[str]


def export_student(config: str, checkpoint: str, path: str) -> StudentFile:
    """Write the student of a pre-training as plain tensors.

    Under timm's names, without a classifier, where timm can build it; else
    under those of the backbone itself, without a prefix.

    Args:
        config (str): Path of the training's config.
        checkpoint (str): Path of the checkpoint.
        path (str): Path of the file, which ends in ``.safetensors``. What is
            there is replaced.

    Returns:
        StudentFile: What was written.

    Raises:
        ValueError: If config and checkpoint do not fit. Nothing is written.
        OSError: If reading or writing fails.
    """
    with quietly():
        try:
            exported = export_checkpoint(
                config, checkpoint, path, 'timm', overwrite=True,
                num_classes=0)
        except ValueError as error:
            reason = str(error)
        else:
            return StudentFile('timm', exported.usage, exported.notes)
        backbone = _write_as_it_is(config, checkpoint, path)
    return StudentFile(
        backbone,
        'backbone = mmpretrain.registry.MODELS.build('
        f'mmengine.Config.fromfile({config!r}).model.backbone)\n'
        f'backbone.load_state_dict(safetensors.torch.load_file({path!r}))',
        [f'it does not have the names of timm: {reason.rstrip(".")}'])


def _write_as_it_is(config: str, checkpoint: str, path: str) -> str:
    """The class of the backbone whose weights are written."""
    cfg = read_model_config(config).model
    file = read_tensor_file(checkpoint)
    tensors, _ = backbone_state_dict(file.tensors)
    backbone = build(cfg.backbone, f'model.backbone of {config}')
    load_exactly(
        backbone, tensors,
        f'{file.source} as model.backbone of {config} does not fit')
    meta = dict(
        source=file.source,
        sha256=file.sha256,
        averaged=file.is_averaged,
        converter=f'dmae_mm {__version__}',
        source_meta=file.meta,
        **origin_of(file.meta, file.tensors).as_meta())
    with write_whole(path) as unfinished:
        save_tensors(unfinished, tensors, meta)
        # As its user will.
        load_exactly(backbone, safetensors.torch.load_file(unfinished),
                     f'what was written as {path} does not fit')
    return type(backbone).__name__
