"""Tokens of a vision transformer: of which blocks, and of which patches."""
import contextlib
import functools
from typing import (Any, Callable, Dict, Iterator, Optional, Sequence, Tuple,
                    Union)

import torch
import torch.nn as nn


def resolve_block(index: Union[int, float],
                  num_layers: int,
                  owner: str,
                  unit: str = 'block') -> int:
    """Turn a block index or a depth fraction into a 0-based block index.

    Args:
        index (int | float): A 0-based index, negative from the end, or a
            fraction of the depth in (0, 1]: 0.75 is block
            ``round(0.75 * num_layers) - 1`` (of 12: block 8).
        num_layers (int): Number of blocks.
        owner (str): Whose blocks, for the error: 'student' or 'teacher'.
        unit (str): What the error calls one. Defaults to 'block'.

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
        f'aligned_layers: the {owner} has no {unit} {index!r}. It has '
        f'{num_layers} {unit}s: give an int from {-num_layers} to '
        f'{num_layers - 1}, or a float above 0 and up to 1 as a fraction of '
        'the depth (0.75: three quarters).')


class OutputRecorder:
    """Records the outputs of modules during a forward pass.

    ::

        recorder = OutputRecorder([vit.layers[2], vit.layers[5]])
        output, (second, fifth) = recorder.record(vit, images)

    Within a block that is checkpointed a hook would see activations without
    gradient, so where one can choose, the modules are whole blocks. Outside
    :meth:`record` nothing is recorded or kept alive.

    Args:
        modules (Sequence[nn.Module]): Whose outputs are wanted, in this
            order; a module may be named more than once.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        distinct = list({id(module): module for module in modules}.values())
        places = {id(module): place for place, module in enumerate(distinct)}
        self._places = [places[id(module)] for module in modules]
        self._outputs: Optional[Dict[int, torch.Tensor]] = None
        for place, module in enumerate(distinct):
            module.register_forward_hook(functools.partial(self._keep, place))

    def _keep(self, place: int, module: nn.Module, args: tuple,
              output: torch.Tensor) -> None:
        if self._outputs is not None:
            self._outputs[place] = output

    def record(self, function: Callable,
               *args: Any) -> Tuple[Any, Tuple[torch.Tensor, ...]]:
        """Call what runs the modules.

        Args:
            function (Callable): The backbone, or what contains it.
            *args: Its arguments.

        Returns:
            tuple: What the function returned, and a tuple with the output of
            each of ``modules``.
        """
        self._outputs = {}
        try:
            result = function(*args)
            return result, tuple(self._outputs[i] for i in self._places)
        finally:
            self._outputs = None


def first_ids(ids_restore: torch.Tensor, num: int) -> torch.Tensor:
    """The first patches in the order of a masked autoencoder.

    In that order the visible patches come first: the first K are those, and
    what follows is masked, as random a choice as another draw would give.

    Args:
        ids_restore (torch.Tensor): MAE's permutation, (B, L): the place of
            each patch in that order.
        num (int): How many.

    Returns:
        torch.Tensor: Their indices in that order, (B, num), int64.
    """
    return ids_restore.argsort(dim=1)[:, :num]


class VisiblePatches(nn.Module):
    """Passes on the prefix tokens and those of the visible patches.

    It takes the place of a module that a network has, behind its position
    embedding and in front of its first block, to drop tokens there (or to do
    nothing). So a whole network of the host packages, with its own forward
    pass, runs its blocks on the visible patches only::

        vit.drop_after_pos = visible = VisiblePatches(num_prefix_tokens=1)
        with visible.only(ids_keep):
            output = vit(images)

    Args:
        num_prefix_tokens (int): P, tokens in front of those of the patches.
    """

    def __init__(self, num_prefix_tokens: int) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens
        self._ids_keep: Optional[torch.Tensor] = None  # within `only`

    @contextlib.contextmanager
    def only(self, ids_keep: Optional[torch.Tensor]) -> Iterator[None]:
        """Let the network see these patches in the body of the ``with``.

        Args:
            ids_keep (torch.Tensor, optional): Indices of each image's visible
                patches, (B, K), int64. None: all.
        """
        self._ids_keep = ids_keep
        try:
            yield
        finally:
            self._ids_keep = None

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Drop the tokens of hidden patches.

        Args:
            tokens (torch.Tensor): (B, P + L, C).

        Returns:
            torch.Tensor: (B, P + K, C), the patches in the order of
            ``ids_keep``.
        """
        if self._ids_keep is None:
            return tokens
        prefix, patches = tokens.split(
            [self.num_prefix_tokens, tokens.shape[1] - self.num_prefix_tokens],
            dim=1)
        patches = take(patches, self._ids_keep)
        return torch.cat([prefix, patches], dim=1) if (
            self.num_prefix_tokens) else patches


def take(patches: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Some patches of each image.

    Args:
        patches (torch.Tensor): (B, L, ...).
        ids (torch.Tensor): Indices, (B, K), int64.

    Returns:
        torch.Tensor: (B, K, ...).
    """
    batch = torch.arange(len(ids), device=ids.device).unsqueeze(1)
    return patches[batch, ids]


def without_registers(tokens: torch.Tensor, num_prefix: int,
                      keep_cls: bool) -> torch.Tensor:
    """Patch tokens, with CLS in front if that is wanted.

    Args:
        tokens (torch.Tensor): (B, P + K, C).
        num_prefix (int): P, of which the first is CLS if there is one.
        keep_cls (bool): Whether CLS stays.

    Returns:
        torch.Tensor: (B, 1 + K, C) or (B, K, C); a view unless registers
        have to be cut out.
    """
    if num_prefix == int(keep_cls):
        return tokens
    patches = tokens[:, num_prefix:]
    return torch.cat([tokens[:, :1], patches], 1) if keep_cls else patches
