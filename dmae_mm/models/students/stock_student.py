from abc import ABCMeta, abstractmethod
from dataclasses import replace
from typing import Dict, List, Sequence, Tuple

import torch
import torch.nn as nn
from mmpretrain.structures import DataSample

from dmae_mm.models.student import Student
from dmae_mm.models.student_input import StudentInput


class StockStudent(metaclass=ABCMeta):
    """A student that computes its loss as another algorithm of mmpretrain.

    That algorithm is built and called as it is. It is no submodule of
    :class:`DMAE`, which shares its parts, under the names that they have in
    it: a checkpoint is one of that algorithm.

    Args:
        algorithm (nn.Module): The algorithm.
        stages (Sequence[nn.Module]): What can be aligned: modules whose
            outputs are the maps of the stages.
        embed_dims (Sequence[int]): Width of each.
        img_size (int): Height and width of an image, in pixels.
        unit (int): Those of the regions that a mask hides or shows as a
            whole.

    Attributes:
        backbone (nn.Module): Part of the algorithm, as the following two.
        neck (nn.Module): Its decoder.
        head (nn.Module): Its head.
        units (tuple[int, int]): Rows and columns of units.
    """

    def __init__(self, algorithm: nn.Module, stages: Sequence[nn.Module],
                 embed_dims: Sequence[int], img_size: int, unit: int) -> None:
        self.algorithm = algorithm
        self.backbone = algorithm.backbone
        self.neck, self.head = algorithm.neck, algorithm.head
        self.stages, self.embed_dims = stages, embed_dims
        self.img_size = img_size
        self.units = (img_size // unit, img_size // unit)

    def describe(self, data_preprocessor: nn.Module) -> Student:
        """What a distillation needs to know.

        Args:
            data_preprocessor (nn.Module): That of the model.

        Returns:
            Student: It.
        """
        images = replace(
            StudentInput.of(self.backbone, data_preprocessor),
            img_size=(self.img_size, self.img_size),
            units=self.units)
        return Student(
            images,
            dict(block=self.stages),
            dict(block=self.embed_dims),
            num_patches=self.units[0] * self.units[1])

    def register_in(self, model: nn.Module) -> None:
        """Share the parts that only this algorithm has with a model."""
        for name, part in self.algorithm.named_children():
            if name not in model._modules:
                setattr(model, name, part)

    def check_size(self, images: torch.Tensor) -> None:
        """Refuse images of another size than the model's.

        Args:
            images (torch.Tensor): (B, 3, H, W).
        """
        if tuple(images.shape[-2:]) != (self.img_size, self.img_size):
            height, width = images.shape[-2:]
            raise ValueError(
                f'The images have {height} x {width} px, but the model is '
                f'made for {self.img_size} x {self.img_size}. Crop them to '
                'that in the pipeline, or change the size in model.')

    @abstractmethod
    def loss(
        self, images: torch.Tensor, data_samples: List[DataSample]
    ) -> Tuple[Dict[str, torch.Tensor], torch.Tensor, int]:
        """Run the student.

        Args:
            images (torch.Tensor): Normalised images, (B, 3, H, W).
            data_samples (list[DataSample]): As the algorithm takes them.

        Returns:
            tuple: ``loss_recon`` in a dict; the place of each unit in an
            order in which the visible ones come first, (B, L), int64; and
            how many are visible, K.
        """


def visible_first(hidden: torch.Tensor) -> torch.Tensor:
    """The place of each unit if the visible ones come first, row by row.

    Args:
        hidden (torch.Tensor): Not 0 where a unit is hidden, (B, L).

    Returns:
        torch.Tensor: (B, L), int64: as MAE's ``ids_restore``.
    """
    return hidden.ne(0).int().argsort(dim=1, stable=True).argsort(dim=1)
