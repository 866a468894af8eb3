"""Run a program where Python lacks what it lacks on Windows.

    python tests/toys/without_posix.py tools/train.py CONFIG ...

It shows that nothing of ours needs it. The packages around ours are imported
before: they ask ``sys.platform``, which is left as it is, and find what they
expect of Linux. MMEngine, which asks ``platform.system()`` when it builds a
run, is told Windows. Processes that the program starts lack the same, and are
started as there.
"""
import importlib.abc
import multiprocessing
import multiprocessing.popen_spawn_posix  # noqa: F401
import multiprocessing.resource_sharer  # noqa: F401
import multiprocessing.resource_tracker
import os
import platform
import runpy
import signal
import sys

import mmcv.transforms  # noqa: F401
import mmengine.runner  # noqa: F401
import mmpretrain.apis  # noqa: F401
import timm  # noqa: F401
import torch.distributed.fsdp  # noqa: F401
import torchvision  # noqa: F401
import yapf  # noqa: F401

MODULES = ('fcntl', 'grp', 'pwd', 'resource', 'termios')
SIGNALS = ('SIGALRM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2', 'alarm',
           'pthread_sigmask', 'sigwait', 'sigwaitinfo')
CALLS = ('fork', 'geteuid', 'getuid', 'killpg', 'pread', 'sched_getaffinity',
         'setsid')


class Absent(importlib.abc.MetaPathFinder):
    """Finds that these modules do not exist."""

    def find_spec(self, name, path=None, target=None):
        if name in MODULES:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)


if __name__ == '__main__':  # the others find it running
    multiprocessing.resource_tracker.ensure_running()
for module in MODULES:
    sys.modules.pop(module, None)
sys.meta_path.insert(0, Absent())
for owner, absent in ((signal, SIGNALS), (os, CALLS)):
    for name in absent:
        delattr(owner, name)
platform.system = lambda: 'Windows'

if __name__ == '__main__':
    multiprocessing.set_start_method('spawn')
    sys.argv = sys.argv[1:]
    sys.path.insert(0, os.path.dirname(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name='__main__')
