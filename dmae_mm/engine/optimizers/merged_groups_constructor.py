from typing import List

import torch.nn as nn
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch.optim import Optimizer


# In MMEngine's own registry, to be found from mmdet, mmseg and mmpretrain.
@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MergedGroupsConstructor(DefaultOptimWrapperConstructor):
    """Few groups of parameters in the place of one for each parameter.

    With a ``paramwise_cfg``, MMEngine makes a group of every parameter. An
    optimizer works group by group, so that a fused AdamW would start one
    kernel for each of them, and learning rates are set one by one. Here
    parameters of the same options share a group, and all is computed in a few
    kernels; what is computed stays the same.

    Checkpoints of an optimizer with one group for each parameter go on here.
    How the optimizer computes (``fused``, ``foreach``) is what the config
    says, whatever the checkpoint was written with; PyTorch alone would go on
    as before.

    Args:
        optim_wrapper_cfg (dict): As in MMEngine.
        paramwise_cfg (dict, optional): As in MMEngine.
    """

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer.

        Args:
            model (nn.Module): Whose parameters are trained.

        Returns:
            OptimWrapper: The optimizer in its wrapper.
        """
        self._positions: List[List[int]] = []
        wrapper = super().__call__(model)
        positions = self._positions

        def regroup(optimizer: Optimizer, state: dict) -> dict:
            return _regroup(optimizer, state, positions)

        wrapper.optimizer.register_load_state_dict_pre_hook(regroup)
        return wrapper

    def add_params(self, params: List[dict], module: nn.Module,
                   prefix: str = '', **kwargs) -> None:
        """Add the groups of a module; see MMEngine.

        Args:
            params (list[dict]): The groups, added to in place.
            module (nn.Module): The model, or, as the host calls itself, a
                part of it.
            prefix (str): Name of the part. Defaults to '', the model.
            **kwargs: What the host passes on.
        """
        super().add_params(params, module, prefix, **kwargs)
        if prefix:
            return
        merged: List[dict] = []
        options: List[dict] = []
        for position, group in enumerate(params):
            own = {key: group[key] for key in group if key != 'params'}
            if own not in options:
                options.append(own)
                merged.append(dict(own, params=[]))
                self._positions.append([])
            index = options.index(own)
            merged[index]['params'] += group['params']
            self._positions[index].append(position)
        params[:] = merged


def _regroup(optimizer: Optimizer, state: dict,
             positions: List[List[int]]) -> dict:
    """Make an optimizer's state fit the merged groups.

    Args:
        optimizer (Optimizer): The one that reads it.
        state (dict): Perhaps of an optimizer with one group a parameter.
        positions (list[list[int]]): Of each merged group, the numbers of its
            parameters among all.

    Returns:
        dict: The same state; what is not understood is left to PyTorch,
        which refuses it.
    """
    groups = state['param_groups']
    single = all(len(group['params']) == 1 for group in groups)
    if single and len(groups) == sum(map(len, positions)):
        groups = [
            dict(groups[numbers[0]],
                 params=[groups[i]['params'][0] for i in numbers])
            for numbers in positions
        ]
    if len(groups) == len(optimizer.param_groups):
        groups = [
            dict(
                group, **{
                    name: own[name]
                    for name in ('fused', 'foreach') if name in own
                }) for group, own in zip(groups, optimizer.param_groups)
        ]
    return dict(state, param_groups=groups)
