"""The whole story in minutes, on a CPU: teacher, control, student, table.

On scikit-learn's handwritten digits: pre-train a small MAE teacher, distil it
into a smaller student with DMAE, train the same student without a teacher,
and compare all of them by nearest neighbours and a linear probe.
"""
import argparse
import contextlib
import json
import os
import os.path as osp
import sys
import time
from typing import Dict, List, Optional

ROOT = osp.dirname(osp.dirname(osp.abspath(__file__)))
CONFIGS = osp.join(ROOT, 'configs', 'digits')
OUT_DIR = osp.join('work_dirs', 'quickstart')

# A clone runs its own code, installed or not: see train.py.
sys.path.insert(0, ROOT)

print('Loading PyTorch and mmpretrain ...', flush=True)

from dmae_mm.models import DMAE  # noqa: E402  First: it checks its hosts.
from dmae_mm.evaluation.digits import (  # noqa: E402
    DATA_DIR, evaluate, final_checkpoint, write_digits)

import cv2  # noqa: E402
import matplotlib  # noqa: E402
import torch  # noqa: E402
from mmengine.config import Config, DictAction  # noqa: E402
from mmengine.hooks import Hook  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

matplotlib.use('Agg')  # no screen is needed
import matplotlib.pyplot as plt  # noqa: E402
from mmpretrain import get_model  # noqa: E402


RUNS = [  # name, what is printed, config
    ('teacher', 'teacher (plain MAE)', 'vit-teacher_mae_digits.py'),
    ('mae', 'student, plain MAE', 'vit-student_mae_digits.py'),
    ('dmae', 'student, DMAE', 'vit-student_dmae_digits.py'),
]


CONSOLE = sys.stdout


class ProgressHook(Hook):
    """Prints a line per few epochs and keeps what the summary needs."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.curves: Dict[str, List[float]] = {}
        self.initial_state: Optional[dict] = None

    def before_train(self, runner) -> None:
        self.initial_state = {
            name: tensor.clone()
            for name, tensor in runner.model.state_dict().items()
        }
        self.start = time.time()

    def after_train_epoch(self, runner) -> None:
        num_iters = len(runner.train_dataloader)
        for name, buffer in runner.message_hub.log_scalars.items():
            if name.startswith('train/loss'):
                self.curves.setdefault(name[len('train/'):], []).append(
                    buffer.mean(num_iters))
        done, total = runner.epoch + 1, runner.max_epochs
        self.seconds = time.time() - self.start
        if done % max(1, total // 10) == 0 or done == total:
            losses = '  '.join(f'{name} {values[-1]:.4f}'
                               for name, values in self.curves.items()
                               if name != 'loss')
            left = self.seconds / done * (total - done)
            print(
                f'  {self.title}: epoch {done:>2}/{total}  {losses}  '
                f'{left:3.0f} s left',
                file=CONSOLE,
                flush=True)


def load_config(file: str, name: str, args: argparse.Namespace) -> Config:
    cfg = Config.fromfile(osp.join(CONFIGS, file))
    cfg.work_dir = osp.join(OUT_DIR, f'seed{args.seed}', name)
    cfg.randomness.seed = args.seed
    cfg.train_dataloader.dataset.data_root = osp.join(DATA_DIR, 'train')
    cfg.merge_from_dict(args.cfg_options)
    if cfg.model.teacher is not None:
        cfg.model.teacher.checkpoint = final_checkpoint(
            osp.join(OUT_DIR, f'seed{args.seed}', 'teacher'))
    return cfg


def train(cfg: Config, title: str) -> ProgressHook:
    """Train through MMEngine's runner, whose log goes to its file only."""
    progress = ProgressHook(title)
    with quiet():
        runner = Runner.from_cfg(cfg)
        runner.register_hook(progress)
        runner.train()
    return progress


def quiet() -> contextlib.AbstractContextManager:
    return contextlib.redirect_stdout(open(os.devnull, 'w'))


@torch.no_grad()
def draw_reconstructions(models: Dict[str, DMAE], file: str) -> None:
    """Masked input | reconstruction by each model | original, as PNG."""
    paths = [
        osp.join(DATA_DIR, 'test', str(digit),
                 sorted(os.listdir(osp.join(DATA_DIR, 'test',
                                            str(digit))))[0])
        for digit in range(10)
    ]
    pixels = torch.stack([
        torch.from_numpy(cv2.imread(path)).permute(2, 0, 1) for path in paths
    ])
    columns = {}
    for name, model in models.items():
        torch.manual_seed(0)  # the same masks for all
        images = model.data_preprocessor(
            dict(inputs=pixels, data_samples=None))['inputs']
        latent, mask, ids_restore = model.backbone(images)
        pred = model.neck(latent, ids_restore)
        target = model.head.patchify(images)
        mask = mask.unsqueeze(-1)
        columns['masked input'] = model.head.unpatchify(
            target * (1 - mask) - mask * 0.4)
        columns[name] = model.head.unpatchify(
            target * (1 - mask) + pred * mask)
        columns['original'] = images
    columns['original'] = columns.pop('original')
    figure, axes = plt.subplots(
        len(columns), 10, figsize=(10, 1.05 * len(columns)))
    for row, (title, column) in zip(axes, columns.items()):
        for axis, image in zip(row, column):
            axis.imshow(image[0].clamp(-1, 1), cmap='gray', vmin=-1, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(title, rotation=0, ha='right', va='center')
    figure.tight_layout(pad=0.3)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def draw_curves(curves: Dict[str, Dict[str, List[float]]], file: str) -> None:
    """Losses over epochs: reconstruction of all runs, alignment of DMAE."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5))
    for title, losses in curves.items():
        for name, values in losses.items():
            epochs = range(1, len(values) + 1)
            if name == 'loss_recon':
                left.plot(epochs, values, label=title)
            elif name.startswith('loss_align'):
                right.plot(epochs, values, label=f'{title}: {name}')
    left.set(
        title='reconstruction of masked patches',
        xlabel='epoch',
        ylabel='mean squared error',
        yscale='log')
    right.set(
        title='alignment with the teacher',
        xlabel='epoch',
        ylabel='weighted L1')
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def print_table(rows: List[dict], titles: Dict[str, str]) -> None:
    print(f'\n{"":22}{"parameters":>11}{"kNN":>8}{"linear":>8}{"seconds":>9}')
    for row in rows:
        print(f'{titles[row["model"]]:22}{row["params"]:>11,}'
              f'{row["knn"]:>8.2f}{row["linear"]:>8.2f}'
              f'{row["seconds"]:>9.0f}')
    print('Accuracies in percent on 360 test images; one image is 0.28 '
          'points.\nParameters: of the encoder. Seconds: of its own '
          'pre-training.\n')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--seed', type=int, default=0, help='defaults to 0')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        help='changes all three configs, e.g. train_cfg.max_epochs=1')
    args = parser.parse_args()
    out_dir = osp.join(OUT_DIR, f'seed{args.seed}')
    write_digits()

    titles = {'random': 'student, untrained'}
    rows, models, curves = [], {}, {}
    for step, (name, title, file) in enumerate(RUNS, 1):
        print(f'[{step}/3] Training the {title}', flush=True)
        cfg = load_config(file, name, args)
        progress = train(cfg, title)
        # As anybody would load it: without the teacher's file.
        with quiet():
            model = get_model(cfg, pretrained=final_checkpoint(cfg.work_dir))
        params = sum(p.numel() for p in model.backbone.parameters())
        rows.append(
            dict(
                model=name,
                params=params,
                **evaluate(cfg, model, DATA_DIR),
                seconds=round(progress.seconds, 1)))
        titles[name], models[title], curves[title] = (title, model,
                                                      progress.curves)
        if name == 'mae':  # the control's weights before its first step
            untrained = get_model(cfg)
            untrained.load_state_dict(progress.initial_state)
            rows.append(
                dict(
                    model='random',
                    params=params,
                    **evaluate(cfg, untrained, DATA_DIR),
                    seconds=0.0))

    order = ['random', 'mae', 'dmae', 'teacher']
    rows.sort(key=lambda row: order.index(row['model']))
    print_table(rows, titles)
    draw_reconstructions(models, osp.join(out_dir, 'reconstructions.png'))
    draw_curves(curves, osp.join(out_dir, 'loss_curves.png'))
    for file in (osp.join(out_dir, 'results.json'),
                 osp.join(OUT_DIR, 'results.json')):
        with open(file, 'w') as stream:
            json.dump(dict(seed=args.seed, rows=rows), stream, indent=2)
    print(f'Table: {osp.join(OUT_DIR, "results.json")}\n'
          f'Pictures: {osp.join(out_dir, "reconstructions.png")}, '
          f'{osp.join(out_dir, "loss_curves.png")}\n'
          f'Logs and checkpoints: {out_dir}\n'
          'Next: `source .venv/bin/activate`, then "Train on your own images" '
          'in README.md')


if __name__ == '__main__':
    main()
