"""The command line of `distill`: tools/distill.py, python -m dmae_mm distill.
"""
import argparse
import sys
from typing import List, Optional

from dmae_mm.engine.hooks.preemption_hook import Preempted
from dmae_mm.engine.work_dir import WorkDirInUse
from dmae_mm.host import ConfigOptions
from dmae_mm.weights.export import FORMATS

from .distill import NotTrained, distill

_TEXT = """\
From a folder of images to a small model in use.

Looks at the images, derives a config and writes it, checks it and tells how
long the training will take, trains the student to repeat what the frozen
teacher computes, evaluates it where there are labels, exports it, and writes
a report. No image needs a label for the training.

The same command again goes on with what was interrupted, and says so when
nothing is left to do. Another --to or --labels is done without training again.

    python tools/distill.py photos --teacher vit_base_patch14_dinov2.lvd142m \\
        --student vit_tiny_patch16_224 --labels photos_with_labels --to onnx

--quick rehearses all of it, in minutes, on a part of the images."""


def build_parser(prog: Optional[str] = None) -> argparse.ArgumentParser:
    """The command line.

    Args:
        prog (str, optional): How it is called. Defaults to the script's name.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description=_TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('images', metavar='IMAGES',
        help='folder of the images to train on, sub-folders included')
    add('--teacher', action='append', required=True,
        metavar='TEACHER',
        help="a name of timm, NAME=FILE for a file of its weights, a FILE, "
        'a FOLDER of Hugging Face, or CONFIG=FILE of mmpretrain; given more '
        'than once, all of them teach')
    add('--student', required=True, metavar='NAME',
        help='a name of timm or mmpretrain')
    add('--size', type=int, metavar='PIXELS',
        help="height and width of the student's images; defaults to its own")
    add('--epochs', type=int, metavar='N',
        help='how often each image is seen; defaults to 100, or 3 with '
        '--quick')
    add('--out', metavar='DIR',
        help='folder of the result; defaults to one in work_dirs/distill, '
        'named after images, student and teacher')
    add('--labels', metavar='DIR',
        help='held out images with one sub-folder a class, in train/ and '
        'test/ or divided in halves: tells kNN and linear probe of student, '
        'untrained student and teacher')
    add('--to', nargs='+', action='extend', default=[],
        metavar='FORMAT',
        help='export the student also as these: ' + ', '.join(FORMATS))
    add('--quick', action='store_true',
        help='rehearse with few images and epochs')
    add('--cfg-options', nargs='+', action=ConfigOptions, default={},
        metavar='KEY=VALUE',
        help='change the derived config, for example '
        'train_dataloader.batch_size=32')
    return parser


def main(argv: Optional[List[str]] = None,
         prog: Optional[str] = None) -> None:
    """Run the command; what a person can mend ends it with one message."""
    args = build_parser(prog).parse_args(argv)
    try:
        distill(**vars(args))
    except Preempted:
        raise
    except KeyboardInterrupt:
        sys.exit(130)
    except (ImportError, OSError, ValueError, NotTrained,
            WorkDirInUse) as error:
        sys.exit(f'error: {error}')
