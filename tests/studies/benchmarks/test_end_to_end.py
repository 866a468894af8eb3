import argparse
import json
import runpy
import sys

import pytest
from mmengine.config import Config
from PIL import Image

from tests.conftest import ROOT

SCRIPT = str(ROOT / 'studies' / 'benchmarks' / 'end_to_end.py')


@pytest.fixture(scope='module')
def script():
    return runpy.run_path(SCRIPT)


@pytest.fixture
def config(toy_model, tmp_path):
    base = ROOT / 'configs' / '_base_'
    path = tmp_path / 'toy.py'
    path.write_text(f'''_base_ = [
    '{base}/datasets/image_folder.py',
    '{base}/schedules/pretrain_100e.py',
    '{base}/default_runtime.py']
model = {toy_model!r}
for _transform in _base_.train_pipeline:
    if 'scale' in _transform:
        _transform['scale'] = 32
train_dataloader = dict(dataset=dict(pipeline=_base_.train_pipeline))
''')
    return str(path)


def test_photos_are_what_the_loader_gets_for_imagenet(script, tmp_path):
    script['make_photos'](tmp_path / 'photos', 3)
    files = sorted((tmp_path / 'photos').iterdir())
    assert [file.name for file in files] == [
        '00000.jpg', '00001.jpg', '00002.jpg']
    images = [Image.open(file) for file in files]
    assert {(image.format, image.size)
            for image in images} == {('JPEG', (500, 375))}
    assert files[0].read_bytes() != files[2].read_bytes()  # another crop


def test_all_three_are_measured(script, config, tmp_path, monkeypatch, capsys):
    """The loader and the step for real; tools/train.py has its own tests."""
    seen = {}

    def train(path, options, work_dir):
        seen.update(options)
        # 0.5 s for 2 images, of which 0.1 s was waiting; the first warm up.
        return [dict(time=9., data_time=9.)] * 3 + [
            dict(time=0.5, data_time=0.1)] * 4

    monkeypatch.setitem(script['measure'].__globals__, 'train', train)
    monkeypatch.setattr(sys, 'argv', [
        SCRIPT, config, '--batch-size', '2', '--workers', '0', '--iterations',
        '7', '--step-iterations', '2', '--device', 'cpu', '--cores', '1', '4',
        '--json', str(tmp_path / 'out.json')
    ])
    script['main']()
    result = json.loads((tmp_path / 'out.json').read_text())
    assert result['training'] == 4 and result['waiting'] == 0.2
    loader, step = result['loader'], result['step']
    assert loader > 0 and step > 0
    assert result['limit'] == ('loader' if loader < step else 'step')
    assert result['loader_per_core'] == loader
    assert result['cores_needed'] == step / loader
    assert result['with_cores'] == {
        '1': min(step, loader), '4': min(step, 4 * loader)}
    assert seen['train_dataloader.batch_size'] == 2
    assert 'data loader alone' in capsys.readouterr().out


def test_what_it_changes_exists_in_the_config(script, tmp_path):
    """An option that nothing reads would measure something else."""
    cfg = Config.fromfile(ROOT / 'configs' / 'dmae' / 'vit-s_dmae_in1k.py')
    args = argparse.Namespace(batch_size=8, workers=2, cfg_options={})
    for option in script['options_of'](args, tmp_path):
        *path, name = option.split('.')
        if path == ['log_processor']:  # MMEngine's default is not written
            continue
        place = cfg
        for part in path:
            place = place[part]
        assert name in place or name in ('allow_random',
                                         'save_last'), option


def test_too_few_iterations_are_refused(script, config, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [
        SCRIPT, config, '--workers', '4', '--iterations', '9'])
    with pytest.raises(SystemExit):
        script['main']()
    assert 'at least 10' in capsys.readouterr().err
