"""Outputs of chosen transformer blocks, by an index that is checked once."""
import functools
from typing import Dict, Sequence, Tuple, Union

import torch
import torch.nn as nn


def resolve_block(index: Union[int, float], num_layers: int,
                  owner: str) -> int:
    """Turn a block index or a depth fraction into a 0-based block index.

    Args:
        index (int | float): A 0-based index, negative from the end, or a
            fraction of the depth in (0, 1]: 0.75 is block
            ``round(0.75 * num_layers) - 1`` (of 12: block 8).
        num_layers (int): Number of blocks.
        owner (str): Whose blocks, for the error: 'student' or 'teacher'.

    Returns:
        int: The index, in ``range(num_layers)``.

    Raises:
        ValueError: If there is no such block.
    """
    if isinstance(index, int) and not isinstance(index, bool):
        if -num_layers <= index < num_layers:
            return index % num_layers
    elif isinstance(index, float):
        if 0 < index <= 1 and round(index * num_layers) >= 1:
            return round(index * num_layers) - 1
    raise ValueError(
        f'aligned_layers: the {owner} has no block {index!r}. It has '
        f'{num_layers} blocks: give an int from {-num_layers} to '
        f'{num_layers - 1}, or a float above 0 and up to 1 as a fraction of '
        'the depth (0.75: three quarters).')


class BlockFeatures:
    """Records the outputs of whole blocks during a forward pass.

    ::

        features = BlockFeatures(vit.layers, [2, 5])
        with features:
            vit(images)
            second, fifth = features.outputs

    Hooks sit on whole blocks, never inside: within a block that is
    checkpointed, a hook would see activations without gradient. Outside the
    ``with`` nothing is recorded or kept alive.

    Args:
        blocks (nn.ModuleList): The blocks of the backbone.
        indices (Sequence[int]): 0-based, in the order in which the outputs
            are wanted; a block may be named more than once.
    """

    def __init__(self, blocks: nn.ModuleList, indices: Sequence[int]) -> None:
        self.indices = tuple(indices)
        self._recording = False
        self._outputs: Dict[int, torch.Tensor] = {}
        for index in set(self.indices):
            blocks[index].register_forward_hook(
                functools.partial(self._record, index))

    def _record(self, index: int, block: nn.Module, args: tuple,
                output: torch.Tensor) -> None:
        if self._recording:
            self._outputs[index] = output

    def __enter__(self) -> 'BlockFeatures':
        self._recording = True
        return self

    def __exit__(self, *exc_info) -> None:
        self._recording = False
        self._outputs = {}

    @property
    def outputs(self) -> Tuple[torch.Tensor, ...]:
        """tuple[torch.Tensor]: One output for each of ``indices``."""
        return tuple(self._outputs[index] for index in self.indices)
