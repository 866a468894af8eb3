"""What a model that is evaluated is made of, by whatever names it."""
import os.path as osp
from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional, Union

import timm
import torch
import torch.nn as nn
from mmengine.config import Config

from dmae_mm.host import build, complete_model, quietly, read_named_config
from dmae_mm.models import TimmViT
from dmae_mm.models.feature_distiller import trained_backbone
from dmae_mm.models.student_input import StudentInput
from dmae_mm.models.teachers.foreign_details import settle_details
from dmae_mm.models.teachers.image_matcher import ImageMatcher
from dmae_mm.models.teachers.normalisation import settle_normalisation
from dmae_mm.models.teachers.teacher_section import (check_tag, is_of_timm,
                                                     split_spec,
                                                     teacher_section)
from dmae_mm.models.timm_vits import (convert_weights, create_model,
                                      fetch_from_hub, pretrained_source,
                                      read_description)
from dmae_mm.weights import TensorFile, read_tensor_file
from dmae_mm.weights.formats import translate
from dmae_mm.weights.origin import (KEY, Origin, config_said,
                                    normalisation_of, origin_of)

from .timm_features import TimmFeatures
from .trained_models import load_backbone

# Of a teacher's model_kwargs, what a TimmViT says otherwise or needs not.
_NOT_OF_TIMM_VIT = ('img_size', 'num_classes', 'patch_drop_rate',
                    'dynamic_img_size', 'global_pool')


@dataclass(frozen=True)
class ModelParts:
    """A backbone that can be built, and its weights.

    Attributes:
        build (Callable): Builds the backbone, without the file's weights.
        fill (Callable): Fills it, strictly: the file must be exactly its
            own.
        file (TensorFile): The weights.
        normalise (dict): ``mean``, ``std`` and ``to_rgb`` for pixel values
            from 0 to 255.
        said (dict): The sections of a config from which it is built.
        config (str, optional): The config that says how images are decoded.
    """
    build: Callable[[], nn.Module]
    fill: Callable[[nn.Module], None]
    file: TensorFile
    normalise: Dict[str, Any]
    said: Dict[str, Any]
    config: Optional[str] = None


def parts_of(model: Union[str, Dict[str, Any]],
             checkpoint: Optional[str] = None,
             img_size: Optional[int] = None) -> ModelParts:
    """Find them.

    Args:
        model (str | dict): With a checkpoint, a config or a name of
            mmpretrain's model zoo. Without, what ``--teacher`` takes (see
            :meth:`TeacherSection.of`), NAME or NAME=FILE of any model of
            timm, a checkpoint of a run, or a file that was exported from
            one; or the section ``teacher`` of a config.
        checkpoint (str, optional): Path or http(s) URL. Defaults to None.
        img_size (int, optional): Height and width of the images, where a
            model has to be built for them. Defaults to None, its own.

    Returns:
        ModelParts: The parts.

    Raises:
        FileNotFoundError: If there is no such config or file.
        ValueError: If there is no such model, or it cannot be used.
        OSError: If a file cannot be read or fetched.
    """
    if checkpoint is not None:
        cfg, _ = read_named_config(model)
        complete_model(cfg, model)
        return _of_config(cfg, read_tensor_file(checkpoint), model, img_size,
                          model)
    if isinstance(model, dict):
        return _of_teacher(model, img_size)
    name, given = split_spec(model)
    if is_of_timm(name) and not _is_plain_vit(name):
        return _of_any_timm(name, given, img_size)
    if given is None and osp.isfile(name) and not name.endswith('.py'):
        file = read_tensor_file(name)
        said = config_said(file.meta)
        if said:
            cfg = Config(_with_size(said, file))
            complete_model(cfg, name)
            return _of_config(cfg, file, f'the config in {name}', img_size)
    return _of_teacher(teacher_section(model), img_size)


def _is_plain_vit(name: str) -> bool:
    with torch.device('meta'), torch.random.fork_rng(devices=[]):
        try:
            create_model(name, {})
        except ValueError:
            return False
    return True


def _with_size(cfg: Dict[str, Any], file: TensorFile) -> Dict[str, Any]:
    """The config in a file, for its positions: an export may have resampled
    them."""
    size = origin_of(file.meta, file.tensors).img_size
    if KEY not in file.meta or size is None or not any(
            name.endswith('pos_embed') for name in file.tensors):
        return cfg
    backbone = dict(cfg['model']['backbone'], img_size=size)
    return dict(cfg, model=dict(cfg['model'], backbone=backbone))


def _of_config(cfg: Config,
               file: TensorFile,
               source: str,
               img_size: Optional[int],
               path: Optional[str] = None) -> ModelParts:
    section = cfg.model.to_dict()
    backbone = {
        option: value
        for option, value in trained_backbone(section).items()
        # Other weights than the file's would be loaded, to be replaced.
        if option not in ('pretrained', 'checkpoint_path')
        and 'Pretrained' not in str(option == 'init_cfg' and value)
    }
    other_size = img_size is not None and backbone['type'] in (
        'MaskedTimmViT', 'TimmViT')
    if other_size:
        backbone['img_size'] = img_size
    normalise = section.get('data_preprocessor') or {}
    return ModelParts(
        build=lambda: _with_tokens(
            build(dict(backbone), f'model.backbone of {source}')),
        fill=lambda network: load_backbone(network, file, source, other_size),
        file=file,
        normalise=dict(
            mean=normalise.get('mean'),
            std=normalise.get('std'),
            to_rgb=any(
                normalise.get(name, False)
                for name in ('to_rgb', 'bgr_to_rgb', 'rgb_to_bgr'))),
        said=dict(backbone=backbone, data_preprocessor=normalise),
        config=path)


def _with_tokens(backbone: nn.Module) -> nn.Module:
    """A classifier's backbone that hands out CLS alone has the patches
    too."""
    if getattr(backbone, 'out_type', '') == 'cls_token' and (
            'raw' in getattr(backbone, 'OUT_TYPES', ())):
        backbone.out_type = 'raw'
    return backbone


def _of_any_timm(name: str, checkpoint: Optional[str],
                 img_size: Optional[int]) -> ModelParts:
    """A model of timm that is no plain ViT."""
    check_tag(name)
    cfg = timm.get_pretrained_cfg(name).to_dict()
    kwargs = {}
    if img_size is not None and cfg.get('fixed_input_size'):
        kwargs['img_size'] = img_size
    with torch.random.fork_rng(devices=[]):
        TimmFeatures(name, kwargs)  # before anything is fetched
    file = read_tensor_file(_located(name, cfg, checkpoint))
    said = normalisation_of(file)
    mean, std = (said.mean, said.std) if said.mean else (
        [255 * value for value in cfg[key]] for key in ('mean', 'std'))
    return ModelParts(
        build=lambda: TimmFeatures(name, kwargs),
        fill=lambda network: network.load(file),
        file=file,
        normalise=_images(mean, std, said),
        said=dict(model_name=name, model_kwargs=kwargs))


def _located(name: str, pretrained_cfg: dict,
             checkpoint: Optional[str]) -> str:
    """Path or URL of weights, those that timm names by default."""
    if checkpoint is None:
        checkpoint = pretrained_source(name, pretrained_cfg)
    if checkpoint.startswith('hf-hub:'):
        return fetch_from_hub(checkpoint, pretrained_cfg)
    return checkpoint


def _images(mean, std, said: Origin) -> Dict[str, Any]:
    return dict(
        mean=list(mean), std=list(std), to_rgb=said.to_rgb is not False)


def _of_teacher(section: Dict[str, Any],
                img_size: Optional[int]) -> ModelParts:
    """A teacher, with all its blocks and its final norm."""
    if section.get('model_name') is None and 'backbone' not in section:
        found = read_description(
            section.get('checkpoint'),
            None not in (section.get('mean'), section.get('std')))
        section = dict(section, **found)
    mean, std = section.get('mean'), section.get('std')
    name, described_by = section.get('model_name'), None
    if name is None:
        backbone = dict(section['backbone'])
        path = section['checkpoint']
        channels = backbone.get('in_channels', 3)
    else:
        kwargs = dict(section.get('model_kwargs') or {})
        with torch.device('meta'), torch.random.fork_rng(devices=[]):
            model = create_model(name, kwargs)
        cfg = model.pretrained_cfg
        channels = model.patch_embed.proj.in_channels
        if mean is None and std is None:
            mean, std = ([255 * value for value in cfg[key]]
                         for key in ('mean', 'std'))
            described_by = f'timm says of {name}'
        backbone = dict(
            type='TimmViT',
            model_name=name,
            img_size=img_size or kwargs.get('img_size'),
            model_kwargs={
                option: value
                for option, value in kwargs.items()
                if option not in _NOT_OF_TIMM_VIT
            },
            out_type='raw')
        path = _located(name, cfg, section.get('checkpoint'))
    file = translate(read_tensor_file(path))
    said = normalisation_of(file)
    if section.get('channels') == [2, 1, 0]:
        said = Origin(to_rgb=False)
    # What a student would see that leaves pixel values as they are.
    images = ImageMatcher(
        StudentInput(None, None, channels, (0., ) * channels,
                     (1., ) * channels, said.to_rgb), None, mean, std)
    try:
        with quietly():
            settle_normalisation(images, file, described_by)
    except ValueError:
        images.mean = None
    if images.mean is None:
        raise ValueError(
            f'{file.source} does not say how its images were normalised. Give '
            f'the config that it was trained with: CONFIG={file.source}.')

    def build_it() -> nn.Module:
        network = build(dict(backbone), f'The teacher {name or ""}'.rstrip())
        return _with_tokens(network) if name is None else (
            _without_norm(network, file))

    def fill(network: nn.Module) -> None:
        load_backbone(network, file, 'the teacher', resample=True)
        settle_details(network, file)

    return ModelParts(
        build=build_it,
        fill=fill,
        file=file,
        normalise=_images(images.mean, images.std, said),
        said=dict(backbone=backbone))


def _without_norm(backbone: TimmViT, file: TensorFile) -> TimmViT:
    """Without a final norm, where a file has none: a teacher needs none."""
    try:
        weights, _ = convert_weights(file, backbone.timm_model, 'student')
    except ValueError:
        return backbone  # which loading explains
    if 'norm.weight' not in weights:
        backbone.timm_model.norm = nn.Identity()
    return backbone
