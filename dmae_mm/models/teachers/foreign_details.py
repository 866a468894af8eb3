"""What a file of another library says of its network that neither names nor
shapes show."""
import torch
import torch.nn as nn
from timm.layers import create_act_layer

from dmae_mm.weights import TensorFile
from dmae_mm.weights.formats import TranslatedFile

# Where timm and mmpretrain have the activation of a block.
_ACTIVATIONS = ('.mlp.act', '.ffn.layers.0.1')


def settle_details(network: nn.Module, file: TensorFile) -> None:
    """Compute as the file's library does, or say why not.

    Args:
        network (nn.Module): The teacher's. Its layer norms get the epsilon
            that the file says.
        file (TensorFile): The file, already loaded.

    Raises:
        ValueError: If the network has another activation.
    """
    if not isinstance(file, TranslatedFile):
        return
    said = file.format
    if said.act_layer is not None:
        own = next((module for name, module in network.named_modules()
                    if name.endswith(_ACTIVATIONS)), None)
        values = torch.linspace(-4, 4, 33)
        wanted = create_act_layer(said.act_layer, inplace=False)
        if own is not None and not torch.allclose(
                own(values.clone()), wanted(values), atol=1e-6):
            raise ValueError(
                f'The teacher checkpoint {file.source} does not fit the '
                f'teacher: it is {said.name} with the activation '
                f'{said.act_layer!r}, the teacher has '
                f'{type(own).__name__}, which no shape shows. Give a '
                'TimmTeacher no model_name, or model_kwargs=dict(act_layer='
                f'{said.act_layer!r}); of mmpretrain, the act_cfg.')
    if said.norm_eps is not None:
        for module in network.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = said.norm_eps
