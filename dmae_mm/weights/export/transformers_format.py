"""For ``AutoModel`` of Hugging Face transformers."""
import json
import os
import os.path as osp
from functools import partial
from typing import Any, Dict, Optional, Tuple

import numpy as np
import safetensors.torch
import timm
import torch
import torch.nn as nn
from PIL import Image

from dmae_mm.host import quietly
from dmae_mm.messages import first_few, one_line

from ..formats import timm_folder
from ..formats.hugging_face import images_of
from ..formats.translate import translate
from ..origin import INTERPOLATIONS
from ..tensor_file import Tensors, read_tensor_file, save_tensors
from .export_format import ExportFormat
from .timm_format import TimmFormat, pretrained_cfg
from .timm_maps import MapArchitecture
from .trained_model import TrainedModel
from .transformers_vit import transformers_vit
from .vit_architecture import ViTArchitecture

_WEIGHTS = 'model.safetensors'
_IMAGES = 'preprocessor_config.json'
_CONFIG = 'config.json'
_EPS_OF_CLIP = 1e-5
_OF_FILES = ('.pth', '.pt', '.pt2', '.bin', '.safetensors', '.onnx', '.json')


class TransformersFormat(ExportFormat):
    """A folder for ``AutoModel.from_pretrained``, ``AutoImageProcessor`` and
    all that take models of Hugging Face transformers.

    A plain vision transformer is written as one of transformers' own (see
    :func:`transformers_vit`), any other model of timm as what ``AutoModel``
    builds with timm (``timm_wrapper``): of those whose maps were trained,
    exactly up to the last of these maps.

    The folder is written without transformers. Where they can be imported,
    they try it; elsewhere, this package's own readers of such folders do.

    Args:
        model (TrainedModel): The model.
    """
    takes_names = True

    def __init__(self, model: TrainedModel) -> None:
        super().__init__(model)
        self.arch = model.arch
        self.returns_maps = isinstance(model.arch, MapArchitecture)
        own = transformers_vit(model)
        if isinstance(own, str):
            self.config, self.tensors = self._wrapped(model, own)
        else:
            self.config, self.tensors = own.config, own.tensors
        self.is_wrapped = isinstance(own, str)
        self.images = self._images(model)
        try:
            with quietly():
                import transformers
                from transformers import AutoImageProcessor, AutoModel
            self.auto = AutoModel, AutoImageProcessor
            self.loaded_by = f'transformers {transformers.__version__}'
        except Exception as error:  # it depends on many packages
            self.auto = None
            self.loaded_by = "this package's reader of such folders"
            self.notes.append('transformers itself was not tried, because it '
                              f'cannot be imported ({one_line(error)})')

    @classmethod
    def check_destination(cls, path: str, to: str, overwrite: bool,
                          source: str) -> None:
        """See :class:`ExportFormat`. A folder is replaced only if nothing
        but an earlier export is in it."""
        if path.endswith(_OF_FILES):
            raise ValueError(f'{path} looks like a file, and {to} gets a '
                             'folder: give the name of one.')
        if osp.isdir(path):
            names = sorted(os.listdir(path))
            others = [name for name in names
                      if name not in (_WEIGHTS, _IMAGES, _CONFIG)]
            if others:
                raise FileExistsError(
                    f'{path} is a folder with other files in it: '
                    f'{first_few(others)}. Choose another name.')
            if names and not overwrite:
                raise FileExistsError(
                    f'{path} exists already: choose another name, or '
                    'overwrite it (--force, overwrite=True).')
            if osp.exists(source) and osp.realpath(source).startswith(
                    osp.realpath(path) + os.sep):
                raise FileExistsError(f'{path} holds the source itself. Give '
                                      'another destination.')
        elif osp.lexists(path):
            raise FileExistsError(f'{path} is a file, and {to} gets a folder: '
                                  'choose another name.')

    def save(self, path: str, meta: Dict[str, Any]) -> None:
        """See :class:`ExportFormat`."""
        os.makedirs(path, exist_ok=True)
        for name, said in ((_CONFIG, self.config), (_IMAGES, self.images)):
            with open(osp.join(path, name), 'w') as file:
                file.write(json.dumps(said, indent=2) + '\n')
        # Which transformers insist on.
        save_tensors(osp.join(path, _WEIGHTS), self.tensors,
                     dict(meta, format='pt'))

    def usage(self, path: str) -> str:
        return ('import transformers\n'
                f'model = transformers.AutoModel.from_pretrained({path!r})\n'
                'processor = transformers.AutoImageProcessor.from_pretrained('
                f'{path!r})\n'
                "output = model(**processor(image.convert('RGB'), "
                "return_tensors='pt'))"
                f'.last_hidden_state{"[-1]" * self.returns_maps}')

    def outputs(self, path: str, images: torch.Tensor) -> Tensors:
        if self.auto is not None:
            with quietly():
                model, found = self.auto[0].from_pretrained(
                    path, output_loading_info=True)
            wrong = [*found['missing_keys'], *found['unexpected_keys']]
            if wrong:
                raise ValueError(f'it does not load {first_few(wrong)}')
            output = model.eval()(images)
            return self._named(output.last_hidden_state, output.pooler_output)
        model = (_as_wrapped if self.is_wrapped else _as_own)(path).eval()
        if self.returns_maps:
            return self._named(model(images), None)
        tokens = model.forward_features(images)
        return self._named(tokens, model.forward_head(tokens))

    def _named(self, last: Any, pooled: Optional[torch.Tensor]) -> Tensors:
        if self.returns_maps:
            return dict(map=last[-1])
        if getattr(self.arch, 'pooled_norm', False):
            return dict(tokens=last, pooled=pooled)
        return dict(tokens=last)

    def check_preprocessing(self, path: str) -> None:
        if self.origin.mean is None:
            return
        if self.auto is None:
            mean, std, _ = images_of(path)
            self._compare_preprocessing(mean, std, 1e-4)
            if self.is_wrapped:
                said = timm_folder.described(path, osp.join(path, _CONFIG))
                self._compare_preprocessing(said['mean'], said['std'], 1e-4)
            return
        if self.arch.in_channels not in (1, 3):
            return  # there are no such pictures
        shape = (*self.arch.img_size, self.arch.in_channels)
        pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        processor = self.auto[1].from_pretrained(path)
        found = processor(
            Image.fromarray(pixels.squeeze()),
            return_tensors='pt')['pixel_values'][0]
        mean, std = (torch.tensor(value).view(-1, 1, 1)
                     for value in (self.origin.mean, self.origin.std))
        wanted = (torch.from_numpy(pixels).permute(2, 0, 1) - mean) / std
        if found.shape != wanted.shape or (found - wanted).abs().max() > 1e-4:
            raise ValueError('images would be normalised or resized otherwise '
                             'than in training')

    def _wrapped(self, model: TrainedModel,
                 reason: str) -> Tuple[Dict[str, Any], Tensors]:
        """config.json and weights of what transformers build with timm."""
        if self.returns_maps:
            arch = model.arch
            name, kwargs = arch.model_name, {**arch.kwargs, **arch.maps}
            tensors = model.backbone.state_dict()
            source = pretrained_cfg(model, 0, self.notes)
        else:
            by_timm = TimmFormat(model, num_classes=0)
            name, kwargs = by_timm.model_name, dict(by_timm.kwargs)
            del kwargs['num_classes']
            if getattr(model.arch, 'norm_eps', None) == _EPS_OF_CLIP:
                name, kwargs = _like_clip(model.arch, kwargs)
            tensors, source = by_timm.tensors, by_timm.source
            self.notes = by_timm.notes
        try:
            json.dumps(kwargs)
        except TypeError:
            raise ValueError(
                f'transformers cannot express this model: {reason}; and timm, '
                'which they would build it with, needs arguments that their '
                f'config.json cannot hold: {kwargs}. --to timm, onnx and '
                'torch-export can.') from None
        known = timm.models.get_pretrained_cfg(name)
        if known.fixed_input_size:
            kwargs.setdefault('img_size', self.arch.img_size)
        more = {key: getattr(known, key, None)
                for key in ('first_conv', 'classifier', 'fixed_input_size')}
        return dict(
            architecture=name.partition('.')[0],  # a tag names weights
            num_classes=0,
            num_features=getattr(model.backbone, 'num_features', None),
            pretrained_cfg={**more, **source},
            model_args=kwargs), dict(tensors)

    def _images(self, model: TrainedModel) -> Dict[str, Any]:
        """What an image processor does: as of
        :func:`pretrained_cfg`."""
        height, width = self.arch.img_size
        known = self.origin.mean is not None
        if known and self.origin.to_rgb is False and (
                self.arch.in_channels == 3) and not self.is_wrapped:
            self.notes.append(
                'data_preprocessor does not reverse the order of the '
                'channels, which OpenMMLab loads as BGR, and image processors '
                'give RGB: reverse the images (pixel_values.flip(1)), with '
                'mean and std, unless your pipeline loads RGB')
        said = dict(
            image_processor_type='ViTImageProcessor',
            do_resize=True,
            size=dict(height=height, width=width),
            resample=INTERPOLATIONS[model.interpolation],
            do_center_crop=False,
            do_rescale=known,
            do_normalize=known)
        if self.arch.in_channels == 3:
            said['do_convert_rgb'] = True
        if known:
            said.update(
                rescale_factor=1 / 255,
                image_mean=[value / 255 for value in self.origin.mean],
                image_std=[value / 255 for value in self.origin.std])
        return said


def _like_clip(arch: ViTArchitecture,
               kwargs: Dict[str, Any]) -> Tuple[str, Dict[str, Any]]:
    """Name and arguments of a model of timm whose norms are as those of CLIP,
    since no argument that is plain data says so."""
    kwargs = dict(
        kwargs,
        patch_size=arch.patch_size,
        embed_dim=arch.embed_dims,
        depth=arch.num_layers,
        num_heads=arch.num_heads,
        pre_norm=arch.pre_norm)
    del kwargs['norm_layer']
    return 'vit_base_patch16_clip_224', kwargs


def _as_own(path: str) -> nn.Module:
    """As this package reads folders of transformers: into a model of timm."""
    file = read_tensor_file(path)
    found = translate(file).format
    model = timm.create_model(
        found.model_name,
        norm_layer=partial(nn.LayerNorm, eps=found.norm_eps),
        **found.model_kwargs)
    model.load_state_dict(found.tensors)
    return model


def _as_wrapped(path: str) -> nn.Module:
    """As transformers do."""
    said = timm_folder.described(path, osp.join(path, _CONFIG))
    model = timm.create_model(
        said['model_name'], num_classes=0, **said['model_kwargs'])
    model.load_state_dict(
        safetensors.torch.load_file(osp.join(path, _WEIGHTS)))
    return model
