"""What a config costs: FLOPs by counting, GPU-hours by arithmetic from them.

Nothing is measured. Multiply-adds x 2 of the forward and backward pass are
counted for one image on models without memory for their tensors; GPU-hours
are those FLOPs x 1,281,167 images of ImageNet-1k x epochs, divided by the
speed of `--tflops`, an assumption: 100 is about a third of the 312 that an
A100 can do in float16. Loading of data, validation and communication are not
included.

    python studies/recipe_costs.py configs/dmae/*.py vit-b_dmae-mlp
    python studies/recipe_costs.py --page    # rewrites docs/recipes.md and, of
                                             # it, docs/students.md and
                                             # docs/objectives.md
"""
import argparse
import re
import sys
from math import prod
from pathlib import Path
from typing import Dict, List

import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS, TRANSFORMS
from mmpretrain.structures import DataSample
from torch.utils.flop_counter import FlopCounterMode

# A clone runs its own code, installed or not: see train.py.
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from dmae_mm.files import write_whole  # noqa: E402
from dmae_mm.host import quietly, read_config  # noqa: E402
from dmae_mm.models import (DMAE, FeatureDistiller,  # noqa: E402
                            PHIStandardize)
from recipes_page import (OBJECTIVES_PAGE, PAGE,  # noqa: E402
                          STUDENTS_PAGE, read_page, replace_cells)

IMAGES, CLASSES = 1_281_167, 1000  # of ImageNet-1k's training set


def build(cfg: Config) -> nn.Module:
    """The model with shapes only, and a teacher that reads no file."""
    init_default_scope(cfg.default_scope)
    # These ask tensors for their values while they are built.
    asking = cfg.model.type == 'FeatureDistiller' or re.search(
        'HiViT|Swin|ResNet|ConvNeXt|EfficientFormer', cfg.model.backbone.type)
    with torch.device('cpu' if asking else 'meta'):
        model = MODELS.build(cfg.model)
    for teacher in getattr(model, 'teachers', {}).values():
        teacher.is_loaded = True
    for module in model.modules():
        if isinstance(module, PHIStandardize):
            module._fitted = True  # there are no features to measure
    if getattr(model, 'stock', None) is None:
        model.to('meta')
    return model.train()  # SimMIM and SparK look where their masks are


def labels(model: nn.Module, number: int, cfg: Config) -> list:
    """Soft labels, as mixup gives, or masks; none where none are needed."""
    if isinstance(model, DMAE):
        masks = [
            TRANSFORMS.build(step)
            for step in cfg.train_dataloader.dataset.pipeline
            if step.type == 'SimMIMMaskGenerator'
        ]
        if not masks:
            return [None] * number
        return [
            DataSample().set_mask(masks[0](dict())['mask'])
            for _ in range(number)
        ]
    if isinstance(model, FeatureDistiller):
        return [None] * number
    score = torch.empty(model.head.num_classes)
    return [DataSample().set_gt_score(score) for _ in range(number)]


def count_gflop(cfg: Config) -> Dict[str, float]:
    """Count a training step.

    Args:
        cfg (Config): A config with a DMAE or a classifier as model.

    Returns:
        dict[str, float]: GFLOP for an image: 'student' (with projectors, or
        with the classifier's head), 'decoder' (0 without one), 'teacher' (0
        without one) and their sum, 'total'.
    """
    model = build(cfg)
    size = image_size(cfg)
    batch_size = 2  # batch normalisation does not train on one image
    with next(model.parameters()).device:
        images = torch.zeros(batch_size, 3, size, size)
        with FlopCounterMode(
                display=False,
                custom_mapping={
                    torch.ops.aten.convolution_backward: convolution_backward
                }) as step:
            losses = model.loss(images, labels(model, batch_size, cfg))
            # Teachers have no backward pass, and are no submodules: they are
            # counted under the names of their classes.
            kinds = {
                type(teacher).__name__
                for teacher in getattr(model, 'teachers', {}).values()
            }
            counts = step.get_flop_counts()
            teacher = sum(
                sum(counts.get(kind, {}).values()) for kind in kinds)
            sum(losses.values()).backward()
    # The decoder is counted with its backward pass, under its class.
    counts = step.get_flop_counts()
    decoder = sum(counts.get(type(model.neck).__name__, {}).values()) if (
        isinstance(model, DMAE)) else 0
    total = step.get_total_flops()
    return {
        part: flops / batch_size / 1e9
        for part, flops in (('student', total - decoder - teacher),
                            ('decoder', decoder), ('teacher', teacher),
                            ('total', total))
    }


def convolution_backward(grad_shape: tuple, x_shape: tuple, w_shape: tuple,
                         *args, **kwargs) -> int:
    """FLOPs as of the forward pass, for each gradient that is wanted.

    PyTorch's own count leaves out that a depthwise convolution is one.
    """
    transposed, output_mask = args[4], args[7]
    pixels = prod(x_shape if transposed else grad_shape)
    return 2 * pixels * prod(w_shape[1:]) * sum(output_mask[:2])


def image_size(cfg: Config) -> int:
    """Side of the training images in pixels."""
    for step in cfg.train_dataloader.dataset.pipeline:
        if step.type in ('RandomResizedCrop', 'FastRandomResizedCrop'):
            return step.scale
    raise ValueError(
        f'{cfg.filename}: there is no RandomResizedCrop in '
        'train_dataloader.dataset.pipeline to tell the size of the images.')


def num_images(cfg: Config) -> int:
    """Images of an epoch; a per cent: as tools/make_subset.py chooses them."""
    percent = re.search(r'-(\d+)pct', Path(cfg.filename).stem)
    if percent is None:
        return IMAGES
    return CLASSES * round(int(percent[1]) / 100 * IMAGES / CLASSES)


def gpu_hours(cfg: Config, gflop: float, tflops: float) -> float:
    """Hours on one GPU that does ``tflops`` 10^12 operations a second."""
    images = num_images(cfg) * cfg.train_cfg.max_epochs
    return images * gflop / (1000 * tflops) / 3600


def format_hours(hours: float) -> str:
    """One decimal, or two below 1."""
    return f'{hours:.{1 if hours >= 1 else 2}f}'


def cost_cells(cfg: Config, tflops: float) -> List[str]:
    """Of a row of docs/recipes.md: GFLOP/image, teacher, GPU-hours."""
    counts = count_gflop(cfg)
    teacher = counts['teacher']
    return [
        f'{counts["total"]:.1f}', f'{teacher:.1f}' if teacher else '',
        format_hours(gpu_hours(cfg, counts['total'], tflops))
    ]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'recipes',
        nargs='*',
        metavar='RECIPE',
        help='path of a config, or name of a row of docs/recipes.md')
    parser.add_argument(
        '--page',
        action='store_true',
        help='count all rows of docs/recipes.md and write its last columns, '
        'and those of docs/students.md and docs/objectives.md')
    parser.add_argument(
        '--tflops',
        type=float,
        default=100,
        help='assumed speed of a GPU, sustained, in 10^12 floating point '
        'operations a second (default: 100)')
    return parser


def main() -> None:
    parser = build_parser()
    args = parser.parse_args()
    if not args.tflops > 0:
        parser.error(f'--tflops {args.tflops} must be above 0')
    if bool(args.recipes) == args.page:
        parser.error('give configs or names of recipes, or --page')
    text = PAGE.read_text(encoding='utf-8')
    if args.page:
        with quietly():
            text = replace_cells(
                text, lambda row: cost_cells(row.read(), args.tflops))
        rows = read_page(text)
        students = replace_cells(
            STUDENTS_PAGE.read_text(encoding='utf-8'),
            lambda row: [rows[row.name].cells['GFLOP/image']])
        objectives = replace_cells(
            OBJECTIVES_PAGE.read_text(encoding='utf-8'),
            lambda row: [row.cells[name] for name in (
                'GFLOP/image', 'teacher')], rows)
        for page, content in ((PAGE, text), (STUDENTS_PAGE, students),
                              (OBJECTIVES_PAGE, objectives)):
            with write_whole(page) as path:
                Path(path).write_text(content, encoding='utf-8')
        return

    rows = read_page(text)
    try:
        recipes = {
            Path(name).stem: rows[name].read() if name in rows else
            read_config(name)
            for name in args.recipes
        }
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    print('| recipe | student | decoder | teacher | GFLOP/image | epochs '
          '| GPU-hours |')
    print('| --- ' + '| ---: ' * 6 + '|')
    for name, cfg in recipes.items():
        with quietly():
            counts = count_gflop(cfg)
        cells = [f'{value:.1f}' for value in counts.values()]
        hours = gpu_hours(cfg, counts['total'], args.tflops)
        print(f'| {name} | {" | ".join(cells)} '
              f'| {cfg.train_cfg.max_epochs} | {format_hours(hours)} |')


if __name__ == '__main__':
    main()
