"""A checkpoint becomes what others load."""
import os
import os.path as osp
import shutil
from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple, Type, Union

import torch
from mmpretrain.models import DeiT3

from dmae_mm.files import write_whole
from dmae_mm.messages import one_line
from dmae_mm.version import __version__

from ..tensor_file import TensorFile, read_tensor_file
from .export_format import ExportFormat
from .mmpretrain_format import MMPretrainFormat
from .mmseg_format import MMSegFormat
from .onnx_format import OnnxFormat
from .timm_format import TimmFormat
from .timm_maps import TimmMapFormat, timm_maps, trained_timm_maps
from .torch_export_format import TorchExportFormat
from .trained_model import (TrainedModel, trained_in_mmpretrain,
                            trained_in_timm)
from .transformers_format import TransformersFormat

# What `--to` and `to` name.
FORMATS: Dict[str, Type[ExportFormat]] = {
    'timm': TimmFormat,
    'transformers': TransformersFormat,
    'onnx': OnnxFormat,
    'torch-export': TorchExportFormat,
    'mmseg': MMSegFormat,
    'mmpretrain': MMPretrainFormat
}
# How much outputs may differ, relative to the largest of their values.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Exported:
    """What was read, written and found.

    Attributes:
        file (TensorFile): The source.
        destination (str): Path of the new file or folder.
        num_bytes (int): Its size.
        num_tensors (int): Number of tensors in it.
        left_out (list[str]): What of the source is not in it.
        notes (list[str]): What its user must know.
        differences (dict[str, float]): How much each output of the model
            differs at most, relative to its largest value.
        loaded_by (str): What loaded the file to find that out.
        usage (str): Code that loads it.
        data_preprocessor (str): What a config must have beside it; '' where
            ``usage`` tells how images are normalised.
    """
    file: TensorFile
    destination: str
    num_bytes: int
    num_tensors: int
    left_out: List[str]
    notes: List[str]
    differences: Dict[str, float]
    loaded_by: str
    usage: str
    data_preprocessor: str


def export_checkpoint(model: str,
                      checkpoint: str,
                      destination: str,
                      to: str,
                      overwrite: bool = False,
                      num_classes: Optional[int] = None,
                      cfg_options: Optional[dict] = None,
                      timm_kwargs: Optional[dict] = None,
                      img_size: Optional[Union[int, Tuple[int, int]]] = None
                      ) -> Exported:
    """Write a trained model as timm, transformers or others load it.

    The written file is loaded as its user would, into a new model, and has
    to give the same outputs for the same image before it takes its place.

    Args:
        model (str): Path of a config of mmpretrain or of this package whose
            ``model.backbone`` is a ``MAEViT``, ``VisionTransformer`` or
            ``DeiT3`` or, but for mmseg and mmpretrain, a ``TIMMBackbone``
            that returns maps, of any model; or the name of a model in timm.
        checkpoint (str): Path or http(s) URL of its weights.
        destination (str): Path of a file that ends in ``.pth`` or
            ``.safetensors``, for onnx in ``.onnx``, for torch-export in
            ``.pt2``; for transformers of a folder.
        to (str): One of ``FORMATS``: 'timm', 'transformers', 'onnx',
            'torch-export', 'mmseg' or 'mmpretrain'.
        overwrite (bool): Whether ``destination`` may exist.
        num_classes (int, optional): For timm: see :class:`TimmFormat`.
        cfg_options (dict, optional): Changes to the config.
        timm_kwargs (dict, optional): Further arguments with which
            ``timm.create_model`` builds ``model``.
        img_size (int | tuple[int, int], optional): Height and width in pixels
            for which the written model is: its positions are resampled.
            Defaults to the model's own.

    Returns:
        Exported: What was read, written and found.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        FileExistsError: If ``destination`` is the source, or exists without
            ``overwrite``.
        ValueError: If model and checkpoint do not fit exactly, the format
            cannot express the model, or the written file gives other
            outputs. Nothing is written then.
        OSError: If reading or writing fails.
    """
    is_config = osp.isfile(model)
    _check_arguments(to, num_classes, is_config, cfg_options,
                     timm_kwargs)
    FORMATS[to].check_destination(destination, to, overwrite, checkpoint)

    if isinstance(img_size, int):
        img_size = (img_size, img_size)
    file = read_tensor_file(checkpoint)
    formats = dict(FORMATS)
    maps = timm_maps(model, cfg_options or {}) if is_config else None
    if maps is not None:
        if to in ('mmseg', 'mmpretrain'):
            raise ValueError(
                f'to={to!r}, but model.backbone of {model} is a TIMMBackbone '
                "that returns maps. Its checkpoint needs no export there: a "
                "TIMMBackbone loads it by init_cfg=dict(type='Pretrained', "
                "checkpoint=..., prefix='backbone.'). Others can be given: "
                f'{", ".join(name for name in FORMATS if "mm" not in name)}.')
        trained = trained_timm_maps(model, maps, file, img_size)
        formats.update(timm=TimmMapFormat)
    elif is_config:
        trained = trained_in_mmpretrain(
            model,
            file,
            cfg_options or {},
            with_classifier=to == 'timm' and num_classes != 0,
            img_size=img_size)
    else:
        trained = trained_in_timm(model, file, timm_kwargs or {}, img_size)
    options = dict(num_classes=num_classes) if to == 'timm' else {}
    target = formats[to](trained, **options)
    left_out = trained.left_out + target.left_out
    meta = dict(
        source=file.source,
        sha256=file.sha256,
        averaged=file.is_averaged,
        converter=f'dmae_mm {__version__}',
        not_carried_over=left_out,
        notes=target.notes,
        verified_with=target.loaded_by,
        usage=target.usage(destination),
        source_meta=file.meta,
        **trained.origin.as_meta())
    differences: Dict[str, float] = {}
    with write_whole(destination) as unfinished:
        # Twice, so that the file which is tried can tell what was found.
        for _ in range(2):
            try:
                target.save(unfinished,
                            dict(meta, max_differences=differences))
            except OSError:
                raise
            except Exception as error:  # of what converts programs
                raise ValueError(f'{to} cannot express this model: '
                                 f'{one_line(error)}') from error
            differences = _differences(trained, target, unfinished)
        num_bytes = _size(unfinished)
        target.check_destination(destination, to, overwrite, checkpoint)
        if osp.isdir(destination):  # of an earlier export
            shutil.rmtree(destination)
    return Exported(
        file=file,
        destination=destination,
        num_bytes=num_bytes,
        num_tensors=len(target.tensors),
        left_out=left_out,
        notes=target.notes,
        differences=differences,
        loaded_by=target.loaded_by,
        usage=target.usage(destination),
        data_preprocessor=target.data_preprocessor())


def _size(path: str) -> int:
    """Bytes of a file, or of the files in a folder."""
    return osp.getsize(path) if osp.isfile(path) else sum(
        osp.getsize(osp.join(path, name)) for name in os.listdir(path))


def _check_arguments(to: str, num_classes: Optional[int],
                     is_config: bool, cfg_options: Optional[dict],
                     timm_kwargs: Optional[dict]) -> None:
    if to not in FORMATS:
        raise ValueError(
            f'to={to!r} is unknown. Choose one of {", ".join(FORMATS)}.')
    if to == 'timm' and not is_config:
        raise ValueError("A model of timm has timm's names already.")
    if num_classes is not None and (to != 'timm' or num_classes < 0):
        raise ValueError(f'num_classes={num_classes} must be 0 or more, and '
                         'is for timm only.')
    if cfg_options and not is_config:
        raise ValueError(f'There is no config to change by {cfg_options}.')
    if timm_kwargs and is_config:
        raise ValueError(f'{timm_kwargs} is for models of timm, not for a '
                         'config.')


@torch.no_grad()
def _differences(trained: TrainedModel, target: ExportFormat,
                 path: str) -> Dict[str, float]:
    """Load a file as its user would, and compare what the models compute.

    Raises:
        ValueError: If it cannot be loaded or computes something else.
    """
    differences: Dict[str, float] = {}
    for number in target.batch_sizes:
        images = torch.randn(
            number,
            trained.arch.in_channels,
            *trained.arch.img_size,
            generator=torch.Generator().manual_seed(0))
        expected = target.expected(trained, images)
        # Loading is up to others, and so is what they raise.
        try:
            outputs = target.outputs(path, images)
            target.check_preprocessing(path)
        except Exception as error:
            raise ValueError(f'{target.loaded_by} cannot load what was to be '
                             f'written: {one_line(error)}') from None
        for name in outputs.keys() & expected.keys():
            scale = expected[name].abs().max().clamp(min=1e-12)
            difference = (outputs[name] - expected[name]).abs().max() / scale
            # max() would drop NaN.
            known = torch.tensor(differences.get(name, 0.))
            differences[name] = float(torch.maximum(known, difference))
    # Written so that NaN fails.
    if all(value <= TOLERANCE for value in differences.values()):
        return differences
    found = ', '.join(
        f'{name} by {value:.1e}' for name, value in differences.items())
    reason = ''
    if isinstance(trained.backbone, DeiT3) or 'DeiT3' in target.loaded_by:
        reason = (" mmpretrain's DeiT3 applies ln1 of a block where DeiT III "
                  'applies ln2, so that the same weights compute something '
                  'else there.')
    raise ValueError(
        f'{target.loaded_by} computes something else from the same weights. '
        f'Outputs differ, relative to their largest value, by up to '
        f'{TOLERANCE:.0e} where all is well; here {found}.{reason}')
