"""Convert a file of FAIR's MAE, or of DMAE's public code, to mmpretrain.

    python tools/model_converters/mae_to_mmpretrain.py SRC DST

SRC may hold an encoder alone, a whole model or a fine-tuned one. The encoder
becomes `backbone.*`, the decoder `neck.*`, DMAE's projectors `distill_neck.*`
and a classifier `head.fc.*`: what configs of mmpretrain and of this package
load. The file is read without executing anything in it.
"""
import argparse
import os.path as osp
import sys
from typing import List, Optional

from dmae_mm.weights import TensorFile, convert_mae_file
from dmae_mm.weights.tensor_file import Tensors


def parse_args(argv: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', metavar='SRC', help='path or http(s) URL')
    parser.add_argument(
        'dst', metavar='DST', help='path that ends in .pth or .safetensors')
    parser.add_argument(
        '--force', action='store_true', help='overwrite DST if it exists')
    return parser.parse_args(argv)


def describe(file: TensorFile, tensors: Tensors, dst: str) -> str:
    """What went where, and what stayed behind."""
    lines = [f'Read {file.source} ({_mib(file.num_bytes)}, sha256 '
             f'{file.sha256}): {len(file.tensors)} tensors.']
    for part in ('backbone', 'neck', 'distill_neck', 'head'):
        sizes = [
            tensor.numel() for name, tensor in tensors.items()
            if name.startswith(part + '.')
        ]
        lines.append(f'  {part + ".*":<15}{len(sizes):>5} tensors'
                     f'{sum(sizes):>13,} values')
    lines.append('Not carried over, because they are no weights: '
                 f'{", ".join(file.ignored) or "nothing"}.')
    lines.append(f'Wrote {dst} ({_mib(osp.getsize(dst))}): {len(tensors)} '
                 'tensors.')
    return '\n'.join(lines)


def _mib(num_bytes: int) -> str:
    return f'{num_bytes / 2**20:.1f} MiB'


def main(argv: Optional[List[str]] = None) -> None:
    args = parse_args(argv)
    try:
        file, tensors = convert_mae_file(args.src, args.dst, args.force)
    except (OSError, ValueError) as error:
        sys.exit(f'error: {error}')
    print(describe(file, tensors, args.dst))


if __name__ == '__main__':
    main()
