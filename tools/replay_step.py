"""Repeat a training step whose loss was not finite, and find the cause.

    python tools/replay_step.py CONFIG DUMP

CONFIG is the run's config, as it lies in the work dir with all options of the
command line; DUMP is the nonfinite_iter_N_rank_R.pth beside it. The model is
built, gets the weights, the batch and the random state of the step, and goes
through it again. Each loss is printed beside its value in the run, and the
first module whose output, or else its gradient, is not finite. Ends with 0 if
the losses are those of the run, and with 1 if not. Nothing in DUMP is
executed; a config is code.
"""
import argparse
import os.path as osp
import sys
from typing import List, Optional

ROOT = osp.dirname(osp.dirname(osp.abspath(__file__)))
if osp.isdir(osp.join(ROOT, 'dmae_mm')):
    # A clone runs its own code, installed or not: see train.py.
    sys.path.insert(0, ROOT)

import dmae_mm  # noqa: E402, F401  First: it explains what is not installed.
import torch  # noqa: E402
from dmae_mm.engine.replay import Replay  # noqa: E402
from dmae_mm.engine.step_dump import read_dump  # noqa: E402
from dmae_mm.host import ConfigOptions, read_config  # noqa: E402
from dmae_mm.weights.safe_load import never_unpickle  # noqa: E402
from mmengine.device import get_device  # noqa: E402


@never_unpickle()
def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', metavar='CONFIG', help='path of the config')
    parser.add_argument('dump', metavar='DUMP', help='path of the dump')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        default={},
        metavar='KEY=VALUE',
        help='change the config, for example optim_wrapper.dtype=float32')
    args = parser.parse_args(argv)
    try:
        cfg = read_config(args.config, args.cfg_options)
        dump = read_dump(args.dump)
        device = torch.device(get_device())
        name = (torch.cuda.get_device_name()
                if device.type == 'cuda' else device.type)
        print(f'Iteration {dump["iter"]}, epoch {dump["epoch"]}, rank '
              f'{dump["rank"]} of {dump["world_size"]}, on {name}. '
              f'{len(dump["images"])} images:', *dump['images'], sep='\n    ')
        if ('cuda' in dump['random_state']) != (device.type == 'cuda'):
            print('WARNING: the run was on another kind of device: other '
                  'random numbers are drawn there, for masks as well.')
        same = Replay(cfg, dump, device).run()
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    return 0 if same else 1


if __name__ == '__main__':
    sys.exit(main())
