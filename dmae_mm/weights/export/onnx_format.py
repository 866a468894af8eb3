"""For ONNX: onnxruntime, TensorRT, OpenVINO and others."""
import importlib.util
from typing import Any, Dict

import torch

from dmae_mm.host import quietly

from ..tensor_file import Tensors
from .program_format import ProgramFormat
from .trained_model import TrainedModel

OPSET = 18
MOST_BYTES = 2_000_000_000  # of weights, in one file of its kind
_PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')


class OnnxFormat(ProgramFormat):
    """An ONNX file of opset 18: see :class:`ProgramFormat`.

    Its input is ``images``; what they have to be is in the file's
    ``metadata_props``.

    Args:
        model (TrainedModel): The model.

    Raises:
        ValueError: If the model cannot be converted.
    """
    endings = ('.onnx', )

    def __init__(self, model: TrainedModel) -> None:
        super().__init__(model)
        size = sum(tensor.nbytes for tensor in self.tensors.values())
        if size > MOST_BYTES:
            raise ValueError(f'The weights are {size:,} bytes, and one ONNX '
                             f'file holds {MOST_BYTES:,}. --to torch-export '
                             'can.')
        import onnxruntime
        self.loaded_by = f'onnxruntime {onnxruntime.__version__}'
        self.converted = None
        self.session = None  # of what was written last

    @classmethod
    def check_destination(cls, path: str, to: str, overwrite: bool,
                          source: str) -> None:
        """See :class:`ExportFormat`."""
        super().check_destination(path, to, overwrite, source)
        missing = [name for name in _PACKAGES if not _is_there(name)]
        if missing:
            raise ValueError(f'to={to!r} needs {" and ".join(missing)}: pip '
                             'install "dmae_mm[onnx]"')

    def save(self, path: str, meta: Dict[str, Any]) -> None:
        """See :class:`ExportFormat`."""
        if self.converted is None:
            self.converted = self._convert()
        self.converted.model.metadata_props.update(self.description(meta))
        self.converted.save(path)
        self.session = None

    def _convert(self) -> Any:
        example = self.example()
        names = list(self.program(example))
        # The exporter reports its progress, and what it thinks of torch.
        with quietly('torch.onnx'):
            return torch.onnx.export(
                self.program, (example, ),
                dynamo=True,
                opset_version=OPSET,
                input_names=['images'],
                output_names=names,
                dynamic_shapes=dict(images={0: 'batch'}),
                verbose=False)

    def usage(self, path: str) -> str:
        names = ', '.join(self.program(self.example()))
        return ('import onnxruntime\n'
                f'session = onnxruntime.InferenceSession({path!r})\n'
                f'{names} = session.run(None, dict(images=images))')

    def outputs(self, path: str, images: torch.Tensor) -> Tensors:
        session = self._session(path)
        found = session.run(None, dict(images=images.numpy()))
        names = [output.name for output in session.get_outputs()]
        return self.named({
            name: torch.from_numpy(value)
            for name, value in zip(names, found)
        })

    def check_preprocessing(self, path: str) -> None:
        self.check_description(
            self._session(path).get_modelmeta().custom_metadata_map)

    def _session(self, path: str) -> Any:
        if self.session is None:
            import onnxruntime
            self.session = onnxruntime.InferenceSession(
                path, providers=['CPUExecutionProvider'])
        return self.session


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # of one that must not be imported
        return False
