"""For PyTorch alone: a program of ``torch.export``."""
import json
from typing import Any, Dict, Tuple

import torch
import torch.nn as nn

from dmae_mm.host import quietly

from ..tensor_file import Tensors
from .program_format import ProgramFormat
from .trained_model import TrainedModel

_DESCRIPTION = 'model.json'


class TorchExportFormat(ProgramFormat):
    """A ``.pt2`` file for ``torch.export.load``: see :class:`ProgramFormat`.

    What the images have to be is in its extra file ``model.json``. PyTorch's
    loader of such files can be made to execute what is in them: only one that
    this package has just written is loaded here.

    Args:
        model (TrainedModel): The model.

    Raises:
        ValueError: If the model cannot be converted.
    """
    endings = ('.pt2', )
    loaded_by = f'torch {torch.__version__}'

    def __init__(self, model: TrainedModel) -> None:
        super().__init__(model)
        self.converted = None
        self.loaded = None  # what was written last

    def save(self, path: str, meta: Dict[str, Any]) -> None:
        """See :class:`ExportFormat`."""
        with quietly():
            if self.converted is None:
                self.converted = torch.export.export(
                    self.program, (self.example(), ),
                    dynamic_shapes=dict(
                        images={0: torch.export.Dim('batch', min=1)}))
            torch.export.save(
                self.converted, path, extra_files={
                    _DESCRIPTION: json.dumps(self.description(meta))})
        self.loaded = None

    def usage(self, path: str) -> str:
        return ('import torch\n'
                f'model = torch.export.load({path!r}).module()\n'
                'output = model(images)  # a dict: '
                f'{", ".join(self.program(self.example()))}')

    def outputs(self, path: str, images: torch.Tensor) -> Tensors:
        return self.named(self._load(path)[0](images))

    def check_preprocessing(self, path: str) -> None:
        self.check_description(self._load(path)[1])

    def _load(self, path: str) -> Tuple[nn.Module, Dict[str, str]]:
        """The program in a file, and what the file says of it."""
        if self.loaded is None:
            extra = {_DESCRIPTION: ''}
            with quietly():
                model = torch.export.load(path, extra_files=extra).module()
            self.loaded = model, json.loads(extra[_DESCRIPTION])
        return self.loaded
