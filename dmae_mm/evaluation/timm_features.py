from typing import Set, Tuple

import timm
import torch
import torch.nn as nn

from dmae_mm.messages import first_few, one_line
from dmae_mm.weights import TensorFile
from dmae_mm.weights.misfits import load_exactly
from dmae_mm.weights.names import timm_model_state_dict


class TimmFeatures(nn.Module):
    """Any model of timm as the backbone that is evaluated.

    It is what ``forward_features`` of timm runs; other parts, such as a
    classifier or the convolution behind a MobileNet's pooling, are left out.

    Args:
        model_name (str): As in ``timm.create_model``. A tag loads no weights.
        model_kwargs (dict): Further arguments of ``timm.create_model``.
            Defaults to {}.

    Attributes:
        timm_model (nn.Module): The model of timm.
        img_size (tuple[int, int]): Height and width of the images that timm
            says it was trained with.
        num_extra_tokens (int): Tokens in front of the patches.

    Raises:
        ValueError: If timm cannot create or run it.
    """

    def __init__(self, model_name: str, model_kwargs: dict = dict()) -> None:
        super().__init__()
        try:
            with torch.device('meta'), torch.random.fork_rng(devices=[]):
                whole = timm.create_model(model_name, **model_kwargs)
            size = model_kwargs.get('img_size', whole.pretrained_cfg.get(
                'input_size', (3, 224, 224))[1:])
            self.img_size = (size, size) if isinstance(size, int) else size
            self._known = whole.state_dict().keys()
            used = _used_parts(whole, self.img_size)
            self.timm_model = timm.create_model(model_name, **model_kwargs)
        except Exception as error:  # of the many kinds of timm's models
            raise ValueError(f'timm.create_model({model_name!r}, '
                             f'**{model_kwargs}) cannot be evaluated: '
                             f'{one_line(error)}') from None
        self.model_name = model_name
        self.num_extra_tokens = getattr(self.timm_model, 'num_prefix_tokens',
                                        0)
        for name, _ in list(self.timm_model.named_children()):
            if name not in used:
                setattr(self.timm_model, name, nn.Identity())

    def load(self, file: TensorFile) -> None:
        """Fill it, strictly.

        Args:
            file (TensorFile): A file with timm's names, alone or behind those
                of a ``TIMMBackbone`` without ``features_only``.

        Raises:
            ValueError: If it is no file of this model.
        """
        own = self.timm_model.state_dict()
        given = timm_model_state_dict(file.tensors) or file.tensors
        load_exactly(
            self.timm_model,
            {
                name: tensor for name, tensor in given.items()
                if name in own or name not in self._known
            }, f"{file.source} does not fit timm's {self.model_name}",
            'Its names begin with '
            f'{first_few(list(given), 3)}. Give the model of this file, as '
            'NAME=FILE.')

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor]:
        """Features of images.

        Args:
            x (torch.Tensor): Normalised images, (B, 3, H, W).

        Returns:
            tuple[torch.Tensor]: One tensor: a map, (B, C, rows, columns), or
            tokens, (B, P + L, C).
        """
        output = self.timm_model.forward_features(x)
        if isinstance(output, (list, tuple)):  # of several stages
            output = output[-1]
        if str(getattr(self.timm_model, 'output_fmt', '')).endswith('NHWC'):
            output = output.permute(0, 3, 1, 2)
        return (output, )


@torch.no_grad()
def _used_parts(model: nn.Module, img_size: Tuple[int, int]) -> Set[str]:
    """Names of the children that ``forward_features`` runs. A part of a few
    numbers without any module, such as a token, is always there."""
    called: Set[int] = set()
    for module in model.modules():
        module.register_forward_pre_hook(
            lambda module, args: called.add(id(module)))
    channels = model.pretrained_cfg.get('input_size', (3, ))[0]
    model.eval().forward_features(
        torch.zeros(1, getattr(model, 'in_chans', channels), *img_size,
                    device='meta'))
    return {
        name for name, child in model.named_children()
        if any(id(module) in called for module in child.modules())
    }
