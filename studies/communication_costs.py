"""Communication against computation, for 1 to 512 GPUs, by arithmetic.

Nothing is measured; every assumption is an option with its default:

- computing: FLOPs of the config, counted as in recipe_costs.py, at --tflops;
- the images of an optimizer step are fixed (--batch, the paper's 4096) and
  split evenly; what a GPU cannot hold at once (--images-per-gpu) is
  accumulated;
- gradients: 4 bytes for each trained parameter (the teacher has none) in one
  ring all-reduce an optimizer step: each GPU sends and receives
  2 (n - 1) / n times the bytes, at --gpu-bandwidth within a node, at
  --node-bandwidth over all its network cards between nodes;
- latency: --latency for each of 2 log2(n) hops of each bucket of 25 MB;
- "hidden" overlaps with the backward pass of the last accumulated batch, two
  thirds of the trained part's FLOPs; "exposed" does not overlap at all.

    python studies/communication_costs.py CONFIG [CONFIG ...]
"""
import argparse
import math
import sys
from pathlib import Path
from typing import Dict

# A clone runs its own code, installed or not: see train.py.
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from dmae_mm.host import quietly, read_config  # noqa: E402
from recipe_costs import build, count_gflop  # noqa: E402

BUCKET = 25 * 2**20  # bytes; PyTorch's default for DDP
GPUS = (1, 8, 16, 64, 128, 512)


def step_costs(gflop: Dict[str, float], parameters: int, gpus: int,
               args: argparse.Namespace) -> Dict[str, float]:
    """Costs of one optimizer step.

    Args:
        gflop (dict[str, float]): GFLOP of an image by part, with 'teacher'
            and 'total'.
        parameters (int): Trained parameters.
        gpus (int): Number of GPUs, n.
        args (argparse.Namespace): Assumptions, as on the command line.

    Returns:
        dict[str, float]: 'images' on a GPU at once, 'counts' of accumulation,
        'compute' and 'communicate' in milliseconds, and the part of n times
        one GPU's throughput that is left with and without overlap, 'hidden'
        and 'exposed'.
    """
    share = args.batch / gpus
    counts = math.ceil(share / args.images_per_gpu)
    images = share / counts
    compute = share * gflop['total'] / args.tflops  # GFLOP / TFLOPS = ms
    backward = images * (gflop['total'] - gflop['teacher']) * 2 / 3 / (
        args.tflops)
    communicate = 0.
    if gpus > 1:
        size = 4 * parameters
        bandwidth = (
            args.gpu_bandwidth
            if gpus <= args.gpus_per_node else args.node_bandwidth)
        buckets = math.ceil(size / BUCKET)
        communicate = (2 * (gpus - 1) / gpus * size / bandwidth / 1e6 +
                       buckets * 2 * math.log2(gpus) * args.latency / 1e3)
    return dict(
        images=images,
        counts=counts,
        compute=compute,
        communicate=communicate,
        hidden=compute / (compute + max(0., communicate - backward)),
        exposed=compute / (compute + communicate))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', metavar='CONFIG')
    for option, default, text in (
        ('--batch', 4096, 'images of an optimizer step'),
        ('--images-per-gpu', 256, 'images that a GPU holds at once'),
        ('--tflops', 100., 'sustained speed of a GPU, 10^12 operations/s'),
        ('--gpu-bandwidth', 200., 'GB/s of a GPU within a node'),
        ('--node-bandwidth', 25., 'GB/s of a node to others'),
        ('--gpus-per-node', 8, 'GPUs of a node'),
        ('--latency', 20., 'microseconds of a hop')):
        parser.add_argument(
            option,
            type=type(default),
            default=default,
            help=f'{text} (default: %(default)s)')
    return parser


def main() -> None:
    parser = build_parser()
    args = parser.parse_args()
    for option, value in vars(args).items():
        if option != 'configs' and not value > 0:
            parser.error(f'--{option.replace("_", "-")} {value} must be '
                         'above 0')
    try:
        configs = {Path(path).stem: read_config(path) for path in args.configs}
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    for name, cfg in configs.items():
        with quietly():
            gflop = count_gflop(cfg)
            parameters = sum(
                parameter.numel() for parameter in build(cfg).parameters()
                if parameter.requires_grad)
        print(f'{name}: {gflop["total"]:.1f} GFLOP an image, '
              f'{parameters / 1e6:.1f} million trained parameters\n')
        print('| GPUs | images x accumulated | compute, ms | all-reduce, ms '
              '| left, hidden | left, exposed |')
        print('| ---: ' * 6 + '|')
        for gpus in GPUS:
            cost = step_costs(gflop, parameters, gpus, args)
            print(f'| {gpus} | {cost["images"]:.0f} x {cost["counts"]} '
                  f'| {cost["compute"]:.1f} | {cost["communicate"]:.1f} '
                  f'| {cost["hidden"]:.0%} | {cost["exposed"]:.0%} |')
        print()


if __name__ == '__main__':
    main()
