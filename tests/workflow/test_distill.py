"""From a folder of images to a student in use, as a person does it."""
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch

import dmae_mm
from tests.toys.folders import write_classes
from tests.toys.models import ROOT
from tests.toys.odd_files import photo
from tests.toys.odd_photos import write_odd_photos
from tests.toys.runs import TRAIN, launch

NAME = 'vit_tiny_patch16_224'
NAMES = ['student', 'untrained student', f'teacher {NAME}']


@pytest.fixture(scope='module')
def there(tmp_path_factory):
    """Images of odd kinds, labelled ones, and the file of a teacher."""
    root = tmp_path_factory.mktemp('a place')  # with a blank
    write_odd_photos(root / 'images')
    write_classes(root / 'labels', 3, 6, 0)
    torch.manual_seed(0)
    torch.save(timm.create_model(NAME).state_dict(), root / 'teacher.pth')
    return root


def command(there, out, *options):
    return [
        sys.executable, ROOT / 'tools' / 'distill.py', there / 'images',
        '--teacher', f'{NAME}={there / "teacher.pth"}', '--student', NAME,
        '--size', '32', '--epochs', '3', '--labels', there / 'labels', '--out',
        out, *options, '--cfg-options', 'train_dataloader.batch_size=8',
        'train_dataloader.num_workers=0'
    ]


def stopped(command, cwd, number, when):
    """Start a command, send a signal when something is true; its output."""
    process = subprocess.Popen(
        [str(part) for part in command], cwd=cwd, text=True,
        env=dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES=''),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not when() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    said, _ = process.communicate(timeout=120)
    return process.returncode, said


@pytest.mark.slow
def test_a_vit_killed_gone_on_with_and_used(there, tmp_path):
    out = tmp_path / 'out'
    status, said = stopped(command(there, out), tmp_path, signal.SIGKILL,
                           (out / 'epoch_1.pth').exists)
    assert status == -signal.SIGKILL, said
    assert '40' in said and '1 .heic' in said and 'Estimate, ' in said
    config = (out / 'config.py').read_text()

    said = launch(command(there, out), tmp_path)
    assert 'Going on at epoch' in said and 'Checking' not in said
    assert 'Epoch(train) [3]' in said and 'Epoch(train) [1]' not in said
    assert 'System environment' not in said
    assert (out / 'config.py').read_text() == config
    assert {'student.safetensors', 'evaluation.json', 'report.html',
            'distill.json', 'epoch_3.pth'} <= {
                path.name for path in out.iterdir()}
    rows = json.loads((out / 'evaluation.json').read_text())['rows']
    assert [row['name'] for row in rows] == NAMES
    assert [row['img_size'] for row in rows] == [32, 32, 32]
    assert all(0 <= row[kind] <= 100 for row in rows
               for kind in ('knn', 'linear'))
    page = (out / 'report.html').read_text()
    assert 'Frozen features' in page and 'untrained student' in page
    assert page.count('data:image/png') > 2

    # The line that is printed makes the student.
    line = re.search(r'timm\.create_model\(.*\)', said)[0]
    student = eval(line, dict(timm=timm))
    assert student(torch.zeros(1, 3, 32, 32)).shape == (1, 192)
    trained = torch.load(
        out / 'epoch_3.pth', weights_only=False)['state_dict']
    weight = 'blocks.0.attn.qkv.weight'
    assert any(
        torch.equal(tensor, student.get_parameter(weight))
        for name, tensor in trained.items()
        if name.startswith('backbone.') and name.endswith(weight))

    # Once more: nothing is done again.
    before = {path: path.stat().st_mtime_ns for path in out.rglob('*')
              if path.is_file() and path.name not in ('distill.json',
                                                      '.run.json')}
    said = launch(command(there, out), tmp_path)
    assert 'the training is finished' in said and 'Epoch(train)' not in said
    assert line in said
    assert before == {path: path.stat().st_mtime_ns for path in before}
    # Another format needs no training.
    said = launch(command(there, out, '--to', 'mmpretrain'), tmp_path)
    assert 'student_mmpretrain.pth' in said
    assert 'Epoch(train)' not in said

    # The config is one of tools/train.py.
    said = launch([
        sys.executable, TRAIN, out / 'config.py', '--work-dir',
        tmp_path / 'again', '--check'
    ], tmp_path)
    assert 'Everything works' in said


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(there, tmp_path):
    out = tmp_path / 'out'
    status, said = stopped(
        command(there, out), tmp_path, signal.SIGINT,
        lambda: any(out.glob('2*/vis_data/scalars.json')))
    assert status == 130, said
    again = shlex.split(said[said.index('The same command goes on:'):
                             ].splitlines()[1])
    assert again[:4] == ['python', '-m', 'dmae_mm', 'distill']
    said = launch([sys.executable, *again[1:]], tmp_path,
                  PYTHONPATH=str(ROOT))
    assert 'Going on at ' in said and 'The student in timm' in said


@pytest.mark.slow
def test_a_mobilenet_from_python(there, tmp_path, capsys):
    result = dmae_mm.distill(
        there / 'images', f'{NAME}={there / "teacher.pth"}',
        'mobilenetv3_small_050', size=64, epochs=1, out=tmp_path / 'out',
        labels=there / 'labels',
        cfg_options={'train_dataloader.batch_size': 8,
                     'train_dataloader.num_workers': 0})
    assert result.failed == [] and Path(result.report).is_file()
    assert [(row['name'], row['img_size'])
            for row in result.evaluation['rows']] == list(
                zip(NAMES, (64, 64, 64)))
    names = dict(image=photo())
    exec(result.usage['timm'], names)
    assert names['features'].shape == (1, 288, 2, 2)  # of 64 pixels
    assert 'In ' + result.out in capsys.readouterr().out
