"""scikit-learn's handwritten digits as image folders, trainings on them, and
what is asked of their features. The quick start and the studies share it."""
import contextlib
import io
import os
import os.path as osp
import sys
import time
from typing import Dict, List

import cv2
import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from dmae_mm.evaluation import (extract_features, knn_accuracy,
                                linear_probe_accuracy)
from dmae_mm.evaluation.reconstruction import reconstruct
from dmae_mm.models import DMAE

DATA_DIR = osp.join('data', 'digits')


def write_digits(held_out: bool = False) -> str:
    """Write the digits as PNG files, one folder a class.

    Args:
        held_out (bool): Leave the 360 test digits alone and split the
            training digits instead, 1,149 and 288: what choices of the recipe
            may be made on. Defaults to False.

    Returns:
        str: Folder with the folders ``train`` (1,437 digits) and ``test``
        (360 digits).
    """
    folder = f'{DATA_DIR}_held_out' if held_out else DATA_DIR
    if osp.isfile(osp.join(folder, 'complete')):
        return folder
    digits = load_digits()
    splits = train_test_split(
        digits.images, digits.target, test_size=360, random_state=0)
    if held_out:
        splits = train_test_split(
            splits[0], splits[2], test_size=288, random_state=0)
    for split, images, labels in (('train', splits[0], splits[2]),
                                  ('test', splits[1], splits[3])):
        for index, (image, label) in enumerate(zip(images, labels)):
            class_folder = osp.join(folder, split, str(label))
            os.makedirs(class_folder, exist_ok=True)
            pixels = (image * (255 / 16)).round().astype('uint8')
            cv2.imwrite(
                osp.join(class_folder, f'{index:04d}.png'),
                cv2.resize(pixels, (32, 32), interpolation=cv2.INTER_CUBIC))
    open(osp.join(folder, 'complete'), 'w').close()
    return folder


class EpochLines(Hook):
    """Prints a line per few epochs and keeps what a summary needs.

    Args:
        title (str): What is trained.

    Attributes:
        initial_state (dict): The model's state before the first step.
        curves (dict[str, list[float]]): Mean of each loss in each epoch.
        seconds (float): From the first step to the last.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.console = sys.stdout  # which train() turns away from
        self.curves: Dict[str, List[float]] = {}

    def before_train(self, runner) -> None:
        self.initial_state = {
            name: tensor.clone()
            for name, tensor in runner.model.state_dict().items()
        }
        self.start = time.time()

    def after_train_epoch(self, runner) -> None:
        for name, buffer in runner.message_hub.log_scalars.items():
            if name.startswith('train/loss'):
                self.curves.setdefault(name.removeprefix('train/'), []).append(
                    buffer.mean(len(runner.train_dataloader)))
        self.seconds = time.time() - self.start
        done, total = runner.epoch + 1, runner.max_epochs
        if done % max(1, total // 10) == 0 or done == total:
            losses = '  '.join(f'{name} {values[-1]:.4f}'
                               for name, values in self.curves.items()
                               if name != 'loss')
            left = self.seconds / done * (total - done)
            print(
                f'  {self.title}: epoch {done:>2}/{total}  {losses}  '
                f'{left:3.0f} s left',
                file=self.console,
                flush=True)


def train(cfg: Config, *hooks: Hook) -> Runner:
    """Train through MMEngine's runner, whose log goes to its file only.

    It begins anew, over what an earlier run has left in the work dir, unless
    ``cfg.resume`` is set.
    """
    cfg.overwrite = not cfg.get('resume')
    with contextlib.redirect_stdout(io.StringIO()):
        runner = Runner.from_cfg(cfg)
        for hook in hooks:
            runner.register_hook(hook)
        runner.train()
    return runner


def evaluate(cfg: Config, model: DMAE, data_dir: str) -> Dict[str, float]:
    """Accuracy of frozen features on the test digits, in percent.

    The digits are as large as those of the training.
    """
    crop, = (step for step in cfg.train_dataloader.dataset.pipeline
             if step.type == 'RandomResizedCrop')
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=crop.scale, interpolation='bicubic'),
        dict(type='PackInputs')
    ]
    splits = []
    for split in ('train', 'test'):
        dataset = dict(
            type='CustomDataset',
            data_root=osp.join(data_dir, split),
            pipeline=pipeline)
        dataloader = Runner.build_dataloader(
            dict(cfg.train_dataloader, dataset=dataset,
                 sampler=dict(type='DefaultSampler', shuffle=False)))
        splits.append(extract_features(model, dataloader))
    return dict(
        knn=round(knn_accuracy(*splits), 2),
        linear=round(linear_probe_accuracy(*splits), 2))


def draw_reconstructions(models: Dict[str, DMAE], data_dir: str,
                         file: str) -> None:
    """Masked input, reconstruction by each model, original: one test digit of
    each class, as PNG."""
    images = []
    for digit in range(10):
        folder = osp.join(data_dir, 'test', str(digit))
        image = cv2.imread(osp.join(folder, min(os.listdir(folder))))
        images.append(torch.from_numpy(image).permute(2, 0, 1))
    found = {
        name: reconstruct(model, images)
        for name, model in models.items()
    }
    seen = next(iter(found.values()))  # by all of them
    rows = [('masked input', 'masked', seen),
            *((name, 'reconstructed', digits)
              for name, digits in found.items()),
            ('original', 'original', seen)]
    figure = Figure(figsize=(10, 1.05 * len(rows)))
    for axes, (title, part, digits) in zip(figure.subplots(len(rows), 10),
                                           rows):
        for axis, digit in zip(axes, digits):
            grey = getattr(digit, part)[..., 0]
            axis.imshow(grey, cmap='gray', vmin=0, vmax=255)
            axis.set(xticks=[], yticks=[])
        axes[0].set_ylabel(title, rotation=0, ha='right', va='center')
    figure.tight_layout(pad=0.3)
    figure.savefig(file, dpi=120)


def draw_curves(curves: Dict[str, Dict[str, List[float]]], file: str) -> None:
    """Losses over epochs: reconstruction of all runs, alignment of DMAE."""
    figure = Figure(figsize=(10, 3.5))
    left, right = figure.subplots(1, 2)
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
