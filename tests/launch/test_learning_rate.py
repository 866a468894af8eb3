"""The learning rate is in proportion to the images of an optimizer step."""
import json
import runpy
import sys

import pytest
from mmengine.config import Config

from dmae_mm.launch import complete_config
from tests.toys.recipes import CONFIGS
from tests.toys.runs import TRAIN, launch, write_toy_run

RECIPES = [  # base learning rate and its images
    ('dmae/vit-s_dmae_in1k.py', 2.4e-3, 4096),
    ('baselines/vit-b_mae_in1k.py', 2.4e-3, 4096),
    ('scaling/vit-l_dmae-fsdp_in1k.py', 2.4e-3, 4096),
    ('benchmarks/vit-s_finetune_in1k.py', 2e-3, 1024),
    ('benchmarks/vit-s_finetune-1pct_in1k.py', 5e-4, 256),
    ('benchmarks/vit-s_linear_in1k.py', 6.4, 16384),
    ('detection/vit-s_mask-rcnn_coco-1024.py', 1e-4, 64),
    ('detection/vit-s_faster-rcnn_coco.py', 1e-4, 16),
    ('segmentation/vit-s_upernet_ade20k-512x512.py', 1e-4, 16),
]


def scaled(path, options, processes, monkeypatch, flag=True):
    """The config as tools/train.py trains it."""
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('WORLD_SIZE', str(processes))
    cfg = Config.fromfile(path)
    cfg.launcher = 'pytorch'
    assert complete_config(cfg, options, auto_scale_lr=flag) == []
    return cfg


@pytest.mark.parametrize('in_file', [True, False])
@pytest.mark.parametrize('batch, processes, accumulated', [
    (128, 1, 32), (64, 2, 1), (16, 3, 7)])
@pytest.mark.parametrize('name, rate, base', [RECIPES[0], RECIPES[3]])
def test_wherever_an_option_is_written(name, rate, base, batch, processes,
                                       accumulated, in_file, tmp_path,
                                       monkeypatch):
    path, options = CONFIGS / name, {
        'train_dataloader.batch_size': batch,
        'optim_wrapper.accumulative_counts': accumulated}
    if in_file:
        (tmp_path / 'own.py').write_text(
            f'_base_ = {str(path)!r}\n'
            f'train_dataloader = dict(batch_size={batch})\n'
            f'optim_wrapper = dict(accumulative_counts={accumulated})\n')
        path, options = tmp_path / 'own.py', {}
    cfg = scaled(path, options, processes, monkeypatch)
    images = batch * processes * accumulated
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(
        rate * images / base, rel=1e-12)
    # Neither MMEngine nor another start of this config scales again.
    assert cfg.auto_scale_lr == dict(base_batch_size=images, enable=False)
    cfg.dump(tmp_path / 'dumped.py')
    again = scaled(tmp_path / 'dumped.py', {}, processes, monkeypatch)
    assert again.optim_wrapper.optimizer.lr == cfg.optim_wrapper.optimizer.lr


@pytest.mark.parametrize('name, rate, base', RECIPES)
def test_images_of_the_recipes(name, rate, base, monkeypatch):
    path = CONFIGS / name
    if 'detection' in name:
        pytest.importorskip('mmdet')
    if 'segmentation' in name:
        pytest.importorskip('mmseg')
    cfg = Config.fromfile(path)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(rate)
    assert cfg.auto_scale_lr.base_batch_size == base
    assert not cfg.auto_scale_lr.get('enable')
    in_a_process = cfg.train_dataloader.batch_size * (
        cfg.optim_wrapper.get('accumulative_counts', 1))
    cfg = scaled(path, {}, base // in_a_process, monkeypatch)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(rate)
    cfg = scaled(path, {}, 1, monkeypatch)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(
        rate * in_a_process / base)


@pytest.mark.parametrize('options', [
    {'auto_scale_lr.enable': True},  # as the option, written elsewhere
    {'auto_scale_lr.enable': True, 'auto_scale_lr.base_batch_size': 2048},
])
def test_switched_on_in_the_config(options, monkeypatch):
    cfg = scaled(CONFIGS / 'dmae/vit-s_dmae_in1k.py', options, 2, monkeypatch,
                 flag=False)
    base = options.get('auto_scale_lr.base_batch_size', 4096)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(
        2.4e-3 * 1024 / base)


@pytest.mark.parametrize('options, message', [
    ({'auto_scale_lr.base_batch_size': None}, 'dict(base_batch_size=...)'),
    ({'auto_scale_lr.base_batch_size': 0}, 'dict(base_batch_size=...)'),
    ({'train_dataloader.batch_size': None},
     'needs a number as train_dataloader.batch_size'),
    ({'optim_wrapper.optimizer.lr': None},
     'needs a number as optim_wrapper.optimizer.lr'),
])
def test_what_cannot_be_scaled(options, message):
    cfg = Config.fromfile(CONFIGS / 'dmae/vit-s_dmae_in1k.py')
    problem, = complete_config(cfg, options, auto_scale_lr=True)
    assert message in problem


@pytest.mark.slow
def test_a_run_of_two_processes(tmp_path):
    """Its first learning rate, without and with --auto-scale-lr."""
    config = write_toy_run(tmp_path)
    config.write_text(config.read_text() + (
        'auto_scale_lr = dict(base_batch_size=32, enable=False)\n'
        "optim_wrapper['accumulative_counts'] = 2\n"))
    for flags, rate in ([], 1e-3), (['--auto-scale-lr'], 2.5e-4):
        work_dir = tmp_path / f'out{len(flags)}'
        output = launch([
            'bash', TRAIN.parent / 'dist_train.sh', config, '2', '--work-dir',
            work_dir, *flags], tmp_path)
        log, = work_dir.glob('*/vis_data/scalars.json')
        assert json.loads(log.read_text().splitlines()[0])['lr'] == rate
        said = output.count('is meant for 32 images per optimizer step, here '
                            'are 8 (2 x 2 processes x 2 accumulated), for '
                            'which 0.00025 is in proportion')
        assert said == (not flags)
        assert output.count('Learning rate: 0.001 for 32 images') == len(flags)


def test_idle_lines_are_left_out(tmp_path, monkeypatch, capsys):
    """And no others, on the console and in the log."""
    config = write_toy_run(tmp_path)
    monkeypatch.setattr(sys, 'argv', [
        str(TRAIN), str(config), '--resume', '--work-dir', str(tmp_path / 'o'),
        '--epochs', '1', '--cfg-options', 'custom_hooks=[]'])
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.setenv('LOCAL_RANK', '0')
    runpy.run_path(str(TRAIN), run_name='__main__')
    log, = (tmp_path / 'o').glob('*/*.log')
    for said in (''.join(capsys.readouterr()), log.read_text()):
        assert '`save_param_scheduler` is True' in said  # another warning
        for idle in ('FileClient', 'HardDiskBackend', 'Auto resumed'):
            assert idle not in said
