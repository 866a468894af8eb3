import torch.nn as nn
from mmengine.model import is_model_wrapper


def unwrapped_model(runner) -> nn.Module:
    """The model that a runner trains, without what wraps it, such as DDP."""
    model = runner.model
    return model.module if is_model_wrapper(model) else model
