"""What formats have in common that hold the whole program, not weights for
one that is built elsewhere."""
import json
from typing import Any, Dict

import torch

from ..tensor_file import Tensors
from .export_format import ExportFormat
from .image_features import ImageFeatures
from .trained_model import TrainedModel


class ProgramFormat(ExportFormat):
    """A file that computes :class:`ImageFeatures` without this package.

    Any number of images goes in at once, all of one size: ``img_size``.

    Args:
        model (TrainedModel): The model.
    """
    takes_names = True
    batch_sizes = (1, 3)

    def __init__(self, model: TrainedModel) -> None:
        super().__init__(model)
        self.program = ImageFeatures(model).eval()
        self.tensors = self.program.state_dict()
        self.shape = (model.arch.in_channels, *model.arch.img_size)
        self.interpolation = model.interpolation
        if self.origin.to_rgb is False and self.shape[0] == 3:
            self.notes.append('the channels of the images are as OpenMMLab '
                              'loads them, BGR')

    def expected(self, model: TrainedModel, images: torch.Tensor) -> Tensors:
        """The program's own outputs, and as far as the model has them under
        other names, the model's."""
        outputs = self.program(images)
        return dict(model.outputs(images), **outputs)

    def named(self, outputs: Tensors) -> Tensors:
        """Outputs also under the names that a model has for them."""
        features = outputs['features']
        if self.program.returns_maps:
            return dict(outputs, map=features)
        if not isinstance(self.program.norm, torch.nn.Identity):
            return outputs  # a model has what it was before
        return dict(outputs, patches=features.flatten(2).transpose(1, 2))

    def example(self) -> torch.Tensor:
        """Two images, to trace the program with."""
        return torch.zeros(2, *self.shape)

    def description(self, meta: Dict[str, Any]) -> Dict[str, str]:
        """What is said in the file: all as text, what is no text as JSON."""
        said = dict(
            meta,
            input='images: (B, C, H, W), float32, normalised: (pixel values '
            'from 0 to 255 - mean) / std',
            input_size=list(self.shape),
            interpolation=self.interpolation,
            mean=self.origin.mean,
            std=self.origin.std,
            channels='RGB' if self.origin.to_rgb else 'as loaded')
        return {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in said.items()
        }

    def check_description(self, found: Dict[str, str]) -> None:
        """Raise ``ValueError`` if a file says other images."""
        if json.loads(found['input_size']) != list(self.shape):
            raise ValueError(f'it says input_size={found["input_size"]}')
        if self.origin.mean is not None:
            self._compare_preprocessing(
                *(json.loads(found[name]) for name in ('mean', 'std')), 1e-4)
