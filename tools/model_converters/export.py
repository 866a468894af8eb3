"""Write a trained model as timm, transformers, ONNX or others load it.

    python tools/model_converters/export.py MODEL CHECKPOINT DST --to timm

MODEL is the config that the checkpoint was trained with, or the name of a
model in timm. Written are, with --to

    timm        the backbone and the classifier, for timm.create_model; a
                classifier of zeros if there is none
    transformers  a folder for AutoModel and AutoImageProcessor of Hugging
                Face transformers
    onnx        a program for onnxruntime and others: normalised images in,
                features out; needs pip install "dmae_mm[onnx]"
    torch-export  the same for PyTorch alone, for torch.export.load
    mmseg       the backbone, for the backbone MAE of mmseg
    mmpretrain  the backbone as `backbone.*`, for mmpretrain and all that
                build its backbones

The new file is loaded as its user would, and has to give the same features
for the same image before it becomes DST. The code that loads it is printed,
with the mean, std and size of the images.
Nothing in CHECKPOINT is executed; a config is code.
"""
import argparse
import sys
from typing import List, Optional

from dmae_mm.host import ConfigOptions
from dmae_mm.weights.export import (FORMATS, Exported,
                                        export_checkpoint)
from dmae_mm.weights.safe_load import never_unpickle


def parse_args(argv: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'model', metavar='MODEL', help='path of a config, or name in timm')
    parser.add_argument(
        'checkpoint', metavar='CHECKPOINT', help='path or http(s) URL')
    parser.add_argument(
        'dst',
        metavar='DST',
        help='path that ends in .pth or .safetensors; in .onnx for onnx, in '
        '.pt2 for torch-export; of a folder for transformers')
    parser.add_argument(
        '--to', choices=FORMATS, required=True, help='who loads it')
    parser.add_argument(
        '--force', action='store_true', help='overwrite DST if it exists')
    parser.add_argument(
        '--num-classes',
        type=int,
        metavar='N',
        help='with --to timm: classes of the classifier of zeros (default '
        '1000), or 0 for a file without any classifier')
    parser.add_argument(
        '--img-size',
        nargs='+',
        type=int,
        metavar='PIXELS',
        help='height and width, or one number for both, for which the '
        'positions are resampled')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='what was changed in the config when it was trained, for example '
        'model.backbone.img_size=384')
    parser.add_argument(
        '--timm-kwargs',
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='further arguments of timm.create_model for a MODEL of timm, '
        'for example num_classes=10')
    return parser.parse_args(argv)


def describe(exported: Exported) -> str:
    """What was read, what was written, and how to load it."""
    file, dst = exported.file, exported.destination
    average = ', averaged over training (EMA)' * file.is_averaged
    differences = ', '.join(f'{name} {value:.1e}' for name, value in sorted(
        exported.differences.items()))
    return '\n'.join([
        f'Read {file.source} (sha256 {file.sha256}): {len(file.tensors)} '
        f'tensors{average}.',
        f'Not carried over: {", ".join(exported.left_out) or "nothing"}.',
        f'Wrote {dst} ({exported.num_bytes / 2**20:.1f} MiB): '
        f'{exported.num_tensors} tensors.', *(
            f'Note: {note}.' for note in exported.notes),
        f'Loaded by {exported.loaded_by}, outputs differ by no more than: '
        f'{differences} (relative to the largest value).', 'Load it with:',
        *(f'  {line}' for line in exported.usage.splitlines()),
        *(f'  {line}' for line in exported.data_preprocessor.splitlines())
    ])


@never_unpickle()
def main(argv: Optional[List[str]] = None) -> None:
    args = parse_args(argv)
    size = args.img_size
    try:
        exported = export_checkpoint(
            args.model,
            args.checkpoint,
            args.dst,
            args.to,
            overwrite=args.force,
            num_classes=args.num_classes,
            cfg_options=args.cfg_options,
            timm_kwargs=args.timm_kwargs,
            img_size=size and (tuple(size) if len(size) > 1 else size[0]))
    except (OSError, ValueError) as error:
        sys.exit(f'error: {error}')
    print(describe(exported))


if __name__ == '__main__':
    main()
