from functools import partial
from typing import Any, Callable, List, Optional

import torch.nn as nn
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmpretrain.engine.optimizers import \
    LearningRateDecayOptimWrapperConstructor

from dmae_mm.options import is_finite_number

_MULTIPLIERS = ('norm_decay_mult', 'bias_decay_mult', 'flat_decay_mult')
_OPTIONS = ('layer_decay_rate', *_MULTIPLIERS, 'custom_keys')


# In MMEngine's own registry, to be found from mmdet, mmseg and mmpretrain.
@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class BackboneLayerDecayConstructor(LearningRateDecayOptimWrapperConstructor):
    """Layer-wise learning rate decay for models of mmdet and mmseg.

    mmpretrain's constructor asks the whole model for the depth of a
    parameter, which only mmpretrain's models answer. Here, ``model.backbone``
    answers; everything outside of it is behind its last block.

    With L blocks and the learning rate lr, block i (from 0) is trained with
    lr * layer_decay_rate**(L - i), the patch embedding, CLS token and
    position embedding with lr * layer_decay_rate**(L + 1), and the rest
    (norms behind the last block, neck, heads) with lr.

    Args:
        optim_wrapper_cfg (dict): Config of the optimizer wrapper. Its
            ``optimizer`` names ``lr`` and ``weight_decay``.
        paramwise_cfg (dict): Options by parameter, those of mmpretrain's
            ``LearningRateDecayOptimWrapperConstructor``.

            - layer_decay_rate (float): In (0, 1]. It has to be given.
            - norm_decay_mult (float, optional): Factor of the weight decay of
              all parameters of norms.
            - bias_decay_mult (float, optional): The same of other biases.
            - flat_decay_mult (float, optional): The same of other parameters
              of one dimension.
            - custom_keys (dict): {part of a parameter's name:
              dict(decay_mult=float)}, before the other factors; the longest
              part that fits is taken.

    Raises:
        ValueError: If there is another option, or no ``lr`` or
            ``weight_decay``, or a number is none or out of range.
    """

    def __init__(self,
                 optim_wrapper_cfg: dict,
                 paramwise_cfg: Optional[dict] = None) -> None:
        _check_options(paramwise_cfg or {})
        for name in ('lr', 'weight_decay'):
            value = optim_wrapper_cfg['optimizer'].get(name)
            if not is_finite_number(value):
                raise ValueError(
                    f'optim_wrapper.optimizer.{name}={value!r}: '
                    'BackboneLayerDecayConstructor needs a number.')
        super().__init__(optim_wrapper_cfg, paramwise_cfg)

    def add_params(self,
                   params: List[dict],
                   module: nn.Module,
                   prefix: str = '',
                   get_layer_depth: Optional[Callable] = None,
                   **kwargs: Any) -> None:
        """Add a group for each parameter that is trained.

        Args:
            params (list[dict]): The groups, added to in place.
            module (nn.Module): The model, or, as the host calls itself, a
                part of it.
            prefix (str): Name of the part. Defaults to '', the model.
            get_layer_depth (callable, optional): Gives depth and number of
                depths of a parameter by name. None asks the backbone.
                Defaults to None.
            **kwargs: What the host passes on.

        Raises:
            ValueError: If the model has no backbone, or one that does not
                know its depths.
        """
        if get_layer_depth is None:
            get_layer_depth = _backbone_depth(module)
        super().add_params(params, module, prefix, get_layer_depth, **kwargs)


def _backbone_depth(model: nn.Module) -> Callable:
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, nn.Module):
        raise ValueError(
            f'optim_wrapper.constructor: {type(model).__name__} has no '
            'backbone to decay learning rates in.')
    if not hasattr(backbone, 'get_layer_depth'):
        raise ValueError(
            f'model.backbone.type: {type(backbone).__name__} does not say how '
            'deep a parameter is (it has no get_layer_depth), which '
            "BackboneLayerDecayConstructor needs. mmpretrain's "
            'VisionTransformer, ViTSAM, BEiTViT, HiViT, SwinTransformer, '
            'ConvNeXt and ResNet have it, for example: '
            "type='mmpretrain.VisionTransformer'.")
    return partial(backbone.get_layer_depth, prefix='backbone.')


def _check_options(cfg: dict) -> None:
    where = 'optim_wrapper.paramwise_cfg'
    for name, value in cfg.items():
        if name not in _OPTIONS:
            hint = (': the backbone knows its number of layers'
                    if name == 'num_layers' else '')
            raise ValueError(
                f'{where} has no option {name}={value!r}{hint}. Its options '
                f'are: {", ".join(_OPTIONS)}.')
    rate = cfg.get('layer_decay_rate')
    if not is_finite_number(rate) or not 0 < rate <= 1:
        raise ValueError(f'{where}.layer_decay_rate={rate!r} is not in '
                         '(0, 1]; 1 trains all layers alike.')
    factors = {
        f'{where}.{name}': cfg[name]
        for name in _MULTIPLIERS if cfg.get(name) is not None
    }
    for key, options in cfg.get('custom_keys', {}).items():
        key = f'{where}.custom_keys[{key!r}]'
        if not isinstance(options, dict) or list(options) != ['decay_mult']:
            raise ValueError(f'{key}={options!r} has to be '
                             'dict(decay_mult=...): learning rates follow '
                             'from the depth alone.')
        factors[f'{key}.decay_mult'] = options['decay_mult']
    for name, factor in factors.items():
        if not is_finite_number(factor) or factor < 0:
            raise ValueError(f'{name}={factor!r} is no number >= 0.')
