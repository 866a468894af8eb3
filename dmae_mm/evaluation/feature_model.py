import hashlib
from typing import Any, Dict, Optional, Union

import torch
import torch.nn as nn

from dmae_mm.host import quietly
from dmae_mm.messages import one_line
from dmae_mm.models.checks import check_preprocessor
from dmae_mm.models.data_preprocessor import ChannelsDataPreprocessor
from dmae_mm.models.student_input import input_channels
from dmae_mm.models.students import outputs_of_whole_images
from dmae_mm.models.teachers.teacher import fixed_seed
from dmae_mm.weights import TensorFile

from .model_parts import parts_of
from .trained_models import in_eval_mode


class FeatureModel(nn.Module):
    """A backbone with the weights of a checkpoint, and its normalisation.

    Decoder, head, teacher and neck are not built, so that no teacher's file
    is needed. The backbone's weights are all set from the checkpoint, or it
    is refused. A teacher has all its blocks and its final norm (if its file
    has one), a model of timm what its ``forward_features`` runs.

    Args:
        model (str | dict): Path of a config of a pre-training method or
            classifier, or a name of mmpretrain's model zoo. Without a
            checkpoint: see :func:`parts_of`.
        checkpoint (str, optional): Path or http(s) URL of its weights.
            Defaults to None.
        img_size (int, optional): Height and width of its images. Defaults to
            None, its own.
        untrained (bool): Initialise it instead, from a fixed seed. Defaults
            to False.

    Attributes:
        backbone (nn.Module): The backbone, on the CPU.
        data_preprocessor (nn.Module): Normalises as config or file say.
        file (TensorFile): What the checkpoint says about itself; its tensors
            are those of the whole file. Of an untrained one, its weights.
        parts (dict): Backbone and normalisation: what the features depend
            on, beside the weights.
        config (str, optional): The config that says how images are decoded.

    Raises:
        FileNotFoundError: If there is no such config or checkpoint.
        ValueError: If there is no such model, it cannot be built, or the
            checkpoint is not exactly its own.
        OSError: If a file cannot be read or fetched.
    """

    def __init__(self,
                 model: Union[str, Dict[str, Any]],
                 checkpoint: Optional[str] = None,
                 img_size: Optional[int] = None,
                 untrained: bool = False) -> None:
        super().__init__()
        parts = parts_of(model, checkpoint, img_size)
        self.parts = dict(parts.said, normalise=parts.normalise)
        self.config = parts.config
        self.file = parts.file
        if untrained:
            with fixed_seed():
                self.backbone = parts.build()
                if hasattr(self.backbone, 'init_weights'):
                    with quietly():
                        self.backbone.init_weights()
            self.file = _untrained_file(self.backbone)
        else:
            self.backbone = parts.build()
            parts.fill(self.backbone)
        self.data_preprocessor = ChannelsDataPreprocessor(**parts.normalise)
        check_preprocessor(self.data_preprocessor, self.backbone)

    @property
    def num_parameters(self) -> int:
        """Of the backbone."""
        return sum(p.numel() for p in self.backbone.parameters())

    @torch.no_grad()
    def check_size(self, img_size: int) -> None:
        """Refuse images that it cannot take.

        Args:
            img_size (int): Height and width.

        Raises:
            ValueError: If it cannot.
        """
        images = torch.zeros(1, input_channels(self.backbone), img_size,
                             img_size)
        try:
            with in_eval_mode(self.backbone):
                outputs_of_whole_images(self.backbone, images)
        except (AssertionError, RuntimeError, ValueError) as error:
            raise ValueError(
                f'A {type(self.backbone).__name__} of {self.file.source} '
                f'cannot take images of {img_size} x {img_size} px: '
                f'{one_line(error)}. Give no --img-size, or a size that it '
                'can take.') from None

    def to(self, device: torch.device) -> 'FeatureModel':
        """Move it; a data preprocessor has to be told by itself."""
        self.data_preprocessor.to(device)
        return super().to(device)


def _untrained_file(backbone: nn.Module) -> TensorFile:
    """Initial weights, as if from a file."""
    tensors = backbone.state_dict()
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f'{name} {tuple(tensor.shape)}'.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return TensorFile('untrained', digest.hexdigest(), 0, tensors, [])
