from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from ..origin import Origin
from ..tensor_file import TensorFile, Tensors


class Normalisation(NamedTuple):
    """Per channel, for pixel values from 0 to 255."""
    mean: Tuple[float, ...]
    std: Tuple[float, ...]


@dataclass(frozen=True)
class Format:
    """A file of another library, recognised and under timm's names.

    Attributes:
        name (str): What it is, for logs and errors: 'a Hugging Face ViT'.
        tensors (dict[str, torch.Tensor]): The encoder under the names of
            timm's model, positions and patches of the file's own sizes.
        model_name (str, optional): The architecture of timm that computes
            the same from them. None where the file leaves it open.
        model_kwargs (dict): Further arguments of ``timm.create_model``, all
            plain data.
        norm_eps (float, optional): What the layer norms add to the variance,
            where the file says so; timm has no argument for it. None keeps
            timm's.
        act_layer (str, optional): timm's name of the activation in the
            blocks, where the file says so.
        origin (Origin): Normalisation (for pixel values from 0 to 255),
            image size, heads, as far as the file says them.
        other_normalisations (tuple[Normalisation]): With which files of the
            same names were trained as well as with that of ``origin``; where
            timm describes the teacher's ``model_name`` with one of them, it
            counts.
        resample (Callable, optional): How the library fits positions to a
            grid of patches, where it is not as timm does and they are of no
            model's own grid: from positions (1, L, C), the grid and timm's
            name of the model.
        ignored (list[str]): What of the file is left aside, for the log.
    """
    name: str
    tensors: Tensors
    model_name: Optional[str] = None
    model_kwargs: Dict[str, Any] = field(default_factory=dict)
    norm_eps: Optional[float] = None
    act_layer: Optional[str] = None
    origin: Origin = Origin()
    other_normalisations: Tuple[Normalisation, ...] = ()
    resample: Optional[Callable] = None
    ignored: List[str] = field(default_factory=list)


@dataclass(frozen=True)
class TranslatedFile(TensorFile):
    """A file of another library as if timm had written it.

    Attributes:
        format (Format): What it was; ``tensors`` and ``meta`` follow it.
    """
    format: Optional[Format] = None
