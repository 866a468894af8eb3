"""Time of a training step: plain MAE, DMAE, with a whole teacher, lighter.

The variants are timed in turn within one process, and each turn yields the
ratios to plain MAE, so that a machine whose speed drifts does not decide the
result. Beside them stands the ratio that counting multiply-adds predicts.

"Whole teacher" is how the paper's public code computes: all blocks of the
teacher, its final norm and its decoder run, although only the features up to
the last aligned block are used. "Light decoder" is CrossAttentionDecoder,
which predicts a quarter of all patches.
"""
import argparse
import json
import statistics
import sys
import time
from typing import Callable, Dict, Tuple

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch.utils.flop_counter import FlopCounterMode

from dmae_mm.models import DMAE, MMPretrainTeacher

VARIANTS = ('plain MAE', 'DMAE', 'DMAE, whole teacher', 'DMAE, light decoder')


class WholeTeacher(MMPretrainTeacher):
    """A teacher that computes what the public code computes."""

    def __init__(self, backbone: dict, aligned_blocks: list, **kwargs) -> None:
        super().__init__(backbone, [*aligned_blocks, -1], **kwargs)
        num_patches = self.patch_grid[0] * self.patch_grid[1]
        self.norm = torch.nn.LayerNorm(self.embed_dims)
        self.decoder = MODELS.build(
            dict(
                type='MAEPretrainDecoder',
                num_patches=num_patches,
                patch_size=self.img_size[0] // self.patch_grid[0],
                embed_dim=self.embed_dims)).requires_grad_(False)
        self.aligned_blocks = self.aligned_blocks[:-1]

    def extract_features(self, images: torch.Tensor,
                         ids_keep: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        *features, last = super().extract_features(images, ids_keep)
        num_patches = self.patch_grid[0] * self.patch_grid[1]
        ids_restore = torch.arange(num_patches, device=images.device)
        self.decoder(self.norm(last), ids_restore.expand(len(images), -1))
        return tuple(features)


def build(config: str, variant: str) -> DMAE:
    """A model with random weights, also in the teacher."""
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    if variant == 'plain MAE':
        cfg.model.update(teacher=None, aligned_layers=[])
    else:
        cfg.model.teacher.checkpoint = 'not read'
        if variant == 'DMAE, whole teacher':
            cfg.model.teacher.type = WholeTeacher
        if variant == 'DMAE, light decoder':
            cfg.model.neck.update(
                type='CrossAttentionDecoder', predict_ratio=0.25)
    model = MODELS.build(cfg.model)
    if model.teacher is not None:
        model.teacher.is_loaded = True
    return model


def count_flops(config: str, variant: str) -> float:
    """Multiply-adds x 2 of forward and backward for an image, only counted."""
    with torch.device('meta'):
        model = build(config, variant)
        images = torch.empty(1, 3, *model.backbone.img_size)
        with FlopCounterMode(display=False) as counter:
            sum(model.loss(images, None).values()).backward()
    return counter.get_total_flops()


def make_step(model: DMAE, images: torch.Tensor, amp: bool) -> Callable:
    """A closure that trains one step and returns its seconds."""
    model = model.to(images.device).train()
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-4)
    synchronize = (
        torch.cuda.synchronize if images.is_cuda else lambda: None)

    def step() -> float:
        synchronize()
        start = time.perf_counter()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=amp):
            loss = sum(model.loss(images, None).values())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        synchronize()
        return time.perf_counter() - start

    return step


def measure(config: str, batch_size: int, rounds: int, device: str,
            amp: bool) -> Dict[str, dict]:
    flops = {variant: count_flops(config, variant) for variant in VARIANTS}
    models = {variant: build(config, variant) for variant in VARIANTS}
    size = models['DMAE'].backbone.img_size
    images = torch.randn(batch_size, 3, *size, device=device)
    steps = {
        variant: make_step(model, images, amp)
        for variant, model in models.items()
    }
    seconds: Dict[str, list] = {variant: [] for variant in VARIANTS}
    for turn in range(-1, rounds):  # the first turn warms up
        for variant, step in steps.items():
            elapsed = step()
            if turn >= 0:
                seconds[variant].append(elapsed)
        if sys.stdout.isatty():
            print(f'  turn {turn + 1}/{rounds}', end='\r', flush=True)
    result = {}
    for variant in VARIANTS:
        ratios = [
            ours / plain
            for ours, plain in zip(seconds[variant], seconds['plain MAE'])
        ]
        result[variant] = dict(
            seconds=statistics.median(seconds[variant]),
            ratio=statistics.median(ratios),
            ratio_min=min(ratios),
            ratio_max=max(ratios),
            gflop_per_image=flops[variant] / 1e9,
            predicted_ratio=flops[variant] / flops['plain MAE'])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        'configs',
        nargs='*',
        default=[
            'configs/dmae/vit-s_dmae_in1k.py',
            'configs/dmae/vit-b_dmae_in1k.py'
        ],
        help='DMAE configs with a MAEViT as student and as teacher; by '
        'default S <- B and B <- L')
    parser.add_argument('--batch-size', type=int, default=8)
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument(
        '--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--amp', action='store_true', help='bfloat16 autocast')
    parser.add_argument('--json', help='also write the results to this file')
    args = parser.parse_args()

    device = (
        torch.cuda.get_device_name() if args.device == 'cuda' else
        f'CPU, {torch.get_num_threads()} threads')
    print(f'{device}, torch {torch.__version__}, batch {args.batch_size}, '
          f'{"bfloat16 autocast" if args.amp else "float32"}, median of '
          f'{args.rounds} turns')
    results = {}
    for config in args.configs:
        print(config)
        result = measure(config, args.batch_size, args.rounds, args.device,
                         args.amp)
        results[config] = result
        print(f'{"":22}{"s/step":>8}{"GFLOP/image":>13}{"ratio":>8}'
              f'{"(min - max)":>16}{"predicted":>11}')
        for variant, row in result.items():
            spread = f'({row["ratio_min"]:.2f} - {row["ratio_max"]:.2f})'
            print(f'{variant:22}{row["seconds"]:>8.3f}'
                  f'{row["gflop_per_image"]:>13.1f}{row["ratio"]:>8.3f}'
                  f'{spread:>16}{row["predicted_ratio"]:>11.3f}')
    if args.json:
        with open(args.json, 'w') as file:
            json.dump(
                dict(
                    device=device,
                    torch=torch.__version__,
                    batch_size=args.batch_size,
                    amp=args.amp,
                    results=results), file, indent=2)


if __name__ == '__main__':
    main()
