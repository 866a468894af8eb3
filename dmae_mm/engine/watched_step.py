"""One iteration of a training whose losses are being waited for."""
import math
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple

import torch
from mmengine.hooks import Hook

from .step_dump import random_state


@dataclass
class Step:
    """One iteration, kept until its losses are known on the host."""
    iter: int  # counted from 1, as in the log
    epoch: int
    where: str
    lr: Dict[str, float]
    batch: Any
    random_state: Dict[str, Any]
    names: List[str]
    # What the device computed: the losses and, last, the verdict on an
    # optimizer step, see FiniteLossHook._judge_losses.
    values: torch.Tensor
    ends_window: bool  # whether an optimizer step belongs to this iteration
    copied: Optional['torch.cuda.Event'] = None
    terms: Dict[str, float] = field(default_factory=dict)

    def read(self) -> int:
        """Wait for the copy, fill ``terms`` and return the verdict."""
        if self.copied is not None:
            self.copied.synchronize()
        *terms, verdict = self.values.tolist()
        self.terms = dict(zip(self.names, terms))
        return int(verdict)

    def bad_terms(self) -> Dict[str, float]:
        """The losses that are not finite; the sum only if no other is."""
        bad = {
            name: value
            for name, value in self.terms.items()
            if 'loss' in name and not math.isfinite(value)
        }
        return {name: value
                for name, value in bad.items() if name != 'loss'} or bad


class StepStartHook(Hook):
    """The last to be called before a step: nothing is drawn in between."""

    def __init__(self) -> None:
        self.count = 0

    def before_train_iter(self, runner, batch_idx: int,
                          data_batch: Any = None) -> None:
        self.count += 1
        self.random_state = random_state()


def copy_to_host(
        values: torch.Tensor
) -> Tuple[torch.Tensor, Optional['torch.cuda.Event']]:
    """Start a copy; the event, if any, tells when it has arrived."""
    if not values.is_cuda:
        return values, None
    on_host = torch.empty_like(values, device='cpu', pin_memory=True)
    on_host.copy_(values, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()
    return on_host, copied
