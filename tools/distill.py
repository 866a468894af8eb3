"""From a folder of images to a small model in use, with one command.

The command line is in dmae_mm/workflow/distill_command.py, where it is also
that of `python -m dmae_mm distill`.
"""
import os.path as osp
import sys

ROOT = osp.dirname(osp.dirname(osp.abspath(__file__)))
if osp.isdir(osp.join(ROOT, 'dmae_mm')):
    # A clone runs its own code, installed or not: see train.py.
    sys.path.insert(0, ROOT)

from dmae_mm.workflow.distill_command import main  # noqa: E402

if __name__ == '__main__':
    main()
