import argparse
import json
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from studies.benchmarks import end_to_end
from tests.toys.models import ROOT


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


def test_all_three_are_measured(config, tmp_path, monkeypatch, capsys):
    """The loader and the step for real; tools/train.py has its own tests."""
    seen = {}

    def train(path, options, work_dir):
        seen.update(options)
        folder = Path(options['train_dataloader.dataset.data_root'])
        assert len(list(folder.glob('*.jpg'))) == 2 * 7
        # 0.5 s for 2 images, of which 0.1 s was waiting; the first warm up.
        return [dict(time=9., data_time=9.)] * 3 + [
            dict(time=0.5, data_time=0.1)] * 4

    monkeypatch.setattr(end_to_end, 'train', train)
    monkeypatch.setattr(sys, 'argv', [
        'end_to_end.py', config, '--batch-size', '2', '--workers', '0',
        '--iterations', '7', '--step-iterations', '2', '--device', 'cpu',
        '--cores', '1', '4', '--json', str(tmp_path / 'out.json')
    ])
    end_to_end.main()
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


def test_what_it_changes_exists_in_the_config(tmp_path):
    """An option that nothing reads would measure something else."""
    cfg = Config.fromfile(ROOT / 'configs' / 'dmae' / 'vit-s_dmae_in1k.py')
    args = argparse.Namespace(batch_size=8, workers=2, cfg_options={})
    for option in end_to_end.options_of(args, tmp_path):
        *path, name = option.split('.')
        if path == ['log_processor']:  # MMEngine's default is not written
            continue
        place = cfg
        for part in path:
            place = place[part]
        assert name in place or name in ('allow_random',
                                         'save_last'), option


def test_too_few_iterations_are_refused(config, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [
        'end_to_end.py', config, '--workers', '4', '--iterations', '9'])
    with pytest.raises(SystemExit):
        end_to_end.main()
    assert 'at least 10' in capsys.readouterr().err
