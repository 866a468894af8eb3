"""The quick start, with one epoch for each model."""
import json
import os
import re
import subprocess
import sys

import cv2
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from tests.toys.models import ROOT


# `make quickstart` does not install what these extras bring.
MISSING = ['mim', 'mmdet', 'mmseg', 'webdataset', 'plotly', 'skimage',
           'hypothesis', 'pytest', 'tensorboard']
RUN = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({MISSING}, None))
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name='__main__')
"""


pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp('quickstart')
    result = subprocess.run(
        [
            sys.executable, '-c', RUN, ROOT / 'tools' / 'quickstart.py',
            '--seed', '3', '--cfg-options', 'train_cfg.max_epochs=1',
            'default_hooks.checkpoint.interval=1'
        ],
        cwd=folder,
        env=dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / 'work_dirs' / 'quickstart', result


def test_results(finished):
    folder, result = finished
    results = json.loads((folder / 'results.json').read_text())
    assert results == json.loads(
        (folder / 'seed3' / 'results.json').read_text())
    assert results['seed'] == 3
    rows = {row['model']: row for row in results['rows']}
    assert list(rows) == ['random', 'mae', 'dmae', 'teacher']
    for row in rows.values():
        assert row.keys() == {'model', 'params', 'knn', 'linear', 'seconds'}
        assert 10 < row['knn'] <= 100 and 10 < row['linear'] <= 100
        # One of 360 images is the unit.
        assert row['knn'] * 3.6 == pytest.approx(
            round(row['knn'] * 3.6), abs=0.02)
    # Patches, CLS, 65 positions, 4 blocks, final norm, all 48 wide.
    student = 48 * (48 + 1) + 48 * 66 + 2 * 48 + 4 * (
        12 * 48**2 + 13 * 48)
    assert rows['random']['params'] == rows['mae']['params'] == rows['dmae'][
        'params'] == student
    assert rows['teacher']['params'] > 5 * student
    assert rows['random']['seconds'] == 0 < rows['dmae']['seconds']
    # The very numbers are printed as a table.
    for row in rows.values():
        assert re.search(
            rf'{row["params"]:,} +{row["knn"]:.2f} +{row["linear"]:.2f} ',
            result.stdout)


def test_progress_is_visible_and_nothing_else(finished):
    _, result = finished
    for step in range(1, 4):
        assert f'[{step}/3] Training the' in result.stdout
    assert re.search(r'epoch +1/1 +loss_recon \d\.\d+ +loss_align_s2_t5',
                     result.stdout)
    assert len(result.stdout.splitlines()) < 40
    assert 'Traceback' not in result.stderr
    assert 'Warning' not in result.stderr


def test_pictures(finished):
    folder, _ = finished
    for name in ('reconstructions.png', 'loss_curves.png'):
        picture = cv2.imread(str(folder / 'seed3' / name))
        assert picture.shape[1] >= 1000
        assert picture.std() > 20


def test_data_are_the_digits(finished):
    data = finished[0].parents[1] / 'data' / 'digits'
    assert len(list((data / 'train').rglob('*.png'))) == 1437
    assert len(list((data / 'test').rglob('*.png'))) == 360
    digit = cv2.imread(str(next((data / 'test' / '0').glob('*.png'))))
    assert digit.shape == (32, 32, 3)


class RecordLosses(Hook):

    def __init__(self):
        self.losses = []

    def after_train_iter(self, runner, batch_idx, data_batch=None,
                         outputs=None):
        self.losses.append({k: float(v) for k, v in outputs.items()})


def run_one_epoch(folder, name, teacher, weights_seed=None):
    cfg = Config.fromfile(ROOT / 'configs' / 'digits' /
                          'vit-student_dmae_digits.py')
    cfg.merge_from_dict(
        dict(
            work_dir=str(folder / name),
            randomness=dict(seed=3),
            train_cfg=dict(max_epochs=1),
            default_hooks=dict(checkpoint=dict(interval=10))))
    cfg.train_dataloader.dataset.data_root = str(
        folder.parents[1] / 'data' / 'digits' / 'train')
    cfg.model.teacher.update(teacher)
    if 'model_name' in teacher:
        del cfg.model.teacher['backbone']
    hook = RecordLosses()
    runner = Runner.from_cfg(cfg)
    runner.register_hook(hook)
    if weights_seed is not None:  # building has drawn from the run's
        torch.manual_seed(weights_seed)
    runner.train()
    return hook.losses


def test_its_config_repeats_its_training(finished):
    folder, _ = finished
    log, = (folder / 'seed3' / 'dmae').glob('*/vis_data/scalars.json')
    logged = json.loads(log.read_text().splitlines()[-1])
    checkpoint = str(folder / 'seed3' / 'teacher' / 'epoch_1.pth')
    repeated = run_one_epoch(folder, 'again', dict(checkpoint=checkpoint))
    for name in ('loss_recon', 'loss_align_s2_t5'):
        # MMEngine logs the mean of the last ten.
        assert logged[name] == pytest.approx(
            sum(losses[name] for losses in repeated[-10:]) / 10, rel=1e-6)


def test_a_timm_teacher_of_the_same_weights_gives_the_same_losses(finished):
    """One epoch on the digits, with mmpretrain's and with timm's teacher."""
    folder, _ = finished
    checkpoint = str(folder / 'seed3' / 'teacher' / 'epoch_1.pth')
    stock = run_one_epoch(
        folder, 'stock', dict(checkpoint=checkpoint), weights_seed=0)
    timm = run_one_epoch(
        folder, 'timm',
        dict(
            type='TimmTeacher',
            # Its mean and std are those of the digits config: 127.5.
            model_name='vit_tiny_patch16_224',
            model_kwargs=dict(
                img_size=32, patch_size=4, embed_dim=96, depth=8, num_heads=4),
            checkpoint=checkpoint),
        weights_seed=0)
    assert len(stock) == 23
    assert stock[-1]['loss_align_s2_t5'] < stock[0]['loss_align_s2_t5']
    for ours, theirs in zip(timm, stock):
        assert ours == pytest.approx(theirs, rel=1e-4)
