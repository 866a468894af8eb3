"""The study with one seed and a few iterations."""
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS

from tests.toys import needs_mmseg  # noqa: F401
from studies import transfer_study
from tests.toys.models import ROOT

CONFIG = ROOT / 'configs' / 'digits' / 'vit-student_mae_digits.py'


def write_student(name: str, seed: int) -> None:
    """What `make quickstart` leaves, but for the training."""
    cfg = Config.fromfile(CONFIG)
    torch.manual_seed(seed)
    model = MODELS.build(cfg.model)
    model.init_weights()
    folder = Path('work_dirs', 'quickstart', name)
    folder.mkdir(parents=True)
    torch.save(dict(state_dict=model.state_dict()), folder / 'epoch_20.pth')


@pytest.mark.slow
def test_table_of_one_seed(tmp_path, monkeypatch, capsys):
    """Command, page and pictures, with students that learned nothing."""
    monkeypatch.chdir(tmp_path)
    for seed, start in enumerate(('mae', 'dmae')):
        write_student(f'seed0/{start}', seed)
    monkeypatch.setattr(sys, 'argv', [
        'transfer_study.py', '--seeds', '1', '--processes', '1', '--page',
        'pages/study.md', '--cfg-options', 'train_cfg.max_epochs=1',
        'train_cfg.val_interval=1', 'train_dataloader.dataset.indices=32',
        'val_dataloader.dataset.indices=8', 'log_level=ERROR'
    ])
    transfer_study.main()
    page = (tmp_path / 'pages' / 'study.md').read_text()
    assert '**Options of the command changed the config.**' in page
    assert 'mmseg 1.' in page and 'learns for 1 epochs' in page
    rows = dict(re.findall(r'^\| (.*?) \| ([-+]?[\d.]+) \|', page, re.M))
    assert list(rows) == [
        'random', 'plain MAE', 'DMAE', 'DMAE - random', 'DMAE - plain MAE'
    ]
    values = {name: float(value) for name, value in rows.items()}
    for other in ('random', 'plain MAE'):
        assert values[f'DMAE - {other}'] == pytest.approx(
            values['DMAE'] - values[other], abs=0.011)
    assert page.split('\n\n')[-1].strip() in capsys.readouterr().out


def test_images(tmp_path, monkeypatch):
    """Digits that can be told apart by their brightness, with their labels."""
    monkeypatch.setattr(transfer_study, 'NUM_IMAGES', dict(train=10, test=8))
    for split, size in (('train', 8), ('test', 6)):
        for number in range(10):
            folder = tmp_path / 'digits' / split / str(number)
            folder.mkdir(parents=True)
            digit = np.zeros((32, 32), np.uint8)
            digit[10:10 + size, 12:12 + size] = 155 + 10 * number
            cv2.imwrite(str(folder / '0.png'), digit)
    transfer_study.write_images(
        str(tmp_path / 'data'), str(tmp_path / 'digits'))
    for split, size, numbers in (('train', 8, 10), ('test', 6, 8)):
        images = sorted((tmp_path / 'data' / 'images' / split).iterdir())
        seen = set()
        for path in images:
            image = cv2.imread(str(path))
            labels = cv2.imread(
                str(tmp_path / 'data' / 'annotations' / split / path.name),
                cv2.IMREAD_UNCHANGED)
            assert image.shape == (48, 48, 3) and labels.shape == (48, 48)
            strokes = (image > 127).all(axis=2)  # photographs are darker
            assert strokes.sum() == size**2
            number, = np.unique((image[strokes] - 155) // 10)
            around = cv2.dilate(np.uint8(strokes), np.ones((5, 5)))
            assert np.array_equal(labels, around * (number + 1))
            assert (image[~strokes] <= 127).all()
            seen.add(number)
        assert len(images) == len(seen) == numbers


def test_the_config_starts_from_the_student(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_student('seed1/dmae', 1)
    cfg = transfer_study.load_config('dmae', 1, {})
    assert cfg.model.backbone.init_cfg.checkpoint == (
        'work_dirs/quickstart/seed1/dmae/epoch_20.pth')
    assert cfg.randomness.seed == 1
    cfg = transfer_study.load_config('random', 1, {})
    assert [init['type'] for init in cfg.model.backbone.init_cfg
            ] == ['Xavier', 'Constant']


def test_a_missing_student(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['transfer_study.py'])
    with pytest.raises(
            SystemExit,
            match='no student work_dirs/quickstart/seed0/mae/epoch_20.pth: '
            '`make quickstart SEED=0` trains'):
        transfer_study.main()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize('option', ['--seeds', '--processes'])
def test_counts_below_one(monkeypatch, capsys, option):
    monkeypatch.setattr(sys, 'argv', ['transfer_study.py', option, '0'])
    with pytest.raises(SystemExit):
        transfer_study.main()
    assert f'{option} 0: at least 1' in capsys.readouterr().err
