"""scikit-learn's handwritten digits as image folders, and what is asked of
features on them. The quick start and the study share it."""
import os
import os.path as osp
from typing import Dict

import cv2
from mmengine.config import Config
from mmengine.runner import Runner
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from dmae_mm.evaluation import (extract_features, knn_accuracy,
                                linear_probe_accuracy)
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


def final_checkpoint(work_dir: str) -> str:
    """Path of the last checkpoint that a run wrote."""
    with open(osp.join(work_dir, 'last_checkpoint')) as file:
        return file.read().strip()


def evaluate(cfg: Config, model: DMAE, data_dir: str) -> Dict[str, float]:
    """Accuracy of frozen features on the test digits, in percent."""
    splits = []
    for split in ('train', 'test'):
        dataset = dict(
            type='CustomDataset',
            data_root=osp.join(data_dir, split),
            pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')])
        dataloader = Runner.build_dataloader(
            dict(cfg.train_dataloader, dataset=dataset,
                 sampler=dict(type='DefaultSampler', shuffle=False)))
        splits.append(extract_features(model, dataloader))
    return dict(
        knn=round(knn_accuracy(*splits), 2),
        linear=round(linear_probe_accuracy(*splits), 2))
