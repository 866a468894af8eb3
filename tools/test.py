"""Evaluate a classifier: mmpretrain's own test script, with dmae_mm in reach.

For fine-tuned and linearly probed students; features of a pre-trained one are
evaluated by tools/evaluate.py. `python tools/test.py -h` lists the options.
"""
import os.path as osp
import runpy
import sys

ROOT = osp.dirname(osp.dirname(osp.abspath(__file__)))
if osp.isdir(osp.join(ROOT, 'dmae_mm')):
    # A clone runs its own code, installed or not: see train.py.
    sys.path.insert(0, ROOT)

import dmae_mm  # noqa: E402, F401  First: it explains what is not installed.
import mmpretrain  # noqa: E402

if __name__ == '__main__':
    script = osp.join(
        osp.dirname(mmpretrain.__file__), '.mim', 'tools', 'test.py')
    if not osp.isfile(script):
        sys.exit(f'{script} is missing: this mmpretrain was installed from '
                 'its repository. Run tools/test.py of that repository '
                 'instead; the config imports dmae_mm by itself.')
    runpy.run_path(script, run_name='__main__')
