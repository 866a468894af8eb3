import contextlib
from typing import Iterator

import torch
import torch.nn as nn
from mmengine.optim import OptimWrapper
from mmpretrain.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class Bfloat16Wrapper(OptimWrapper):
    """Forward pass under autocast of bfloat16 on a CPU, where MMEngine's
    ``AmpOptimWrapper`` refuses to work: for what that costs in accuracy."""

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), torch.autocast(
                'cpu', torch.bfloat16):
            yield
