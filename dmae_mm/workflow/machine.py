"""The machine on which a run is planned."""
import os
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Machine:
    """What a plan needs to know of it.

    Attributes:
        accelerator (bool): Whether it has a GPU.
        bfloat16 (bool): Whether that computes in bfloat16: those of compute
            capability 8.0 or newer.
        memory (float): Of the GPU or, where there is none, of the machine, in
            GiB.
        cores (int): That this process may use.
    """
    accelerator: bool
    bfloat16: bool
    memory: float
    cores: int

    @classmethod
    def here(cls) -> 'Machine':
        """This one."""
        cores = len(os.sched_getaffinity(0)) if hasattr(
            os, 'sched_getaffinity') else os.cpu_count() or 1
        if torch.cuda.is_available():
            properties = torch.cuda.get_device_properties(0)
            return cls(True, properties.major >= 8,
                       properties.total_memory / 2**30, cores)
        pages = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
        return cls(False, False, pages / 2**30, cores)

    def __str__(self) -> str:
        """'2 cores, 16 GiB, no GPU'."""
        number = f'{self.cores} core{"s" * (self.cores != 1)}'
        if self.accelerator:
            return f'a GPU of {self.memory:.0f} GiB, {number}'
        return f'{number}, {self.memory:.0f} GiB, no GPU'
