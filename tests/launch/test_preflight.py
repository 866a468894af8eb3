"""tools/train.py --check: what it finds, tells and leaves behind."""
import copy
import io
import os
import re
import shutil

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from dmae_mm.launch import (complete_config, measure, preflight,
                            set_epochs)
from dmae_mm.launch.start import TRACEBACK, start
from tests.toys import runs
from tests.toys.runs import write_toy_run


@pytest.fixture
def cfg(tmp_path):
    cfg = Config.fromfile(write_toy_run(tmp_path / 'run'))
    cfg.work_dir = str(tmp_path / 'some' / 'work_dir')
    cfg.launcher = 'none'
    # Runs of one second would share their logger and visualizer otherwise.
    cfg.experiment_name = tmp_path.name
    return cfg


def check(cfg, **options):
    assert complete_config(cfg, options) == []
    said = []
    return preflight(cfg, said.append), '\n'.join(said)


def files(folder):
    return sorted(os.path.join(root, name)
                  for root, _, names in os.walk(folder) for name in names)


def size_of(part, said):
    """Bytes that the estimate tells of a part."""
    number, unit = re.search(rf'{part} (\S+) ([kM]B)', said).groups()
    return float(number) * dict(kB=1e3, MB=1e6)[unit]


def test_a_good_config(cfg, tmp_path):
    before = files(tmp_path)
    good, said = check(cfg)
    assert good, said
    assert files(tmp_path) == before and not (tmp_path / 'some').exists()
    sizes = {part: size_of(part, said)
             for part in ('weights', 'gradients', 'optimizer')}
    # AdamW has two moments of each weight; a step count weighs 4 bytes.
    assert sizes['optimizer'] == pytest.approx(2 * sizes['gradients'], rel=.01)
    assert sizes['weights'] >= sizes['gradients'] > 1e5
    # 8 images in batches of 2, 2 epochs.
    assert re.search(r'one process on this machine: 8 iterations x \S+ s',
                     said)
    assert re.search(r'Checkpoint: \S+ [kM]B, written and reloaded', said)
    assert said.endswith('Everything works: the run can be started.')
    assert cfg.work_dir.endswith('work_dir')


def test_an_existing_work_dir_keeps_its_files(cfg, tmp_path):
    os.makedirs(cfg.work_dir)
    with open(os.path.join(cfg.work_dir, 'epoch_1.pth'), 'w') as file:
        file.write('precious')
    before = files(tmp_path)
    good, said = check(cfg)  # the start would write over it
    assert not good and 'epoch_1.pth' in said and '--overwrite' in said
    cfg.overwrite = True
    assert check(cfg)[0]
    assert files(tmp_path) == before


def test_errors_that_need_nothing_built_come_together(cfg):
    del cfg.train_dataloader.sampler['type']
    good, said = check(cfg, **{
        'train_dataloader.dataset.data_root': 'gone',
        'model.teacher.checkpoint': 'gone.pth',
        'train_cfg.max_epochs': 0,
        'train_dataloader.num_workers': -1,
        'model.backbone.arch.num_layers': 10**9,
    })
    assert not good and said.startswith('6 problems:')
    for part in ("folder 'gone'", "checkpoint 'gone.pth'", 'max_epochs=0',
                 'num_workers=-1',
                 "sampler={'shuffle': True} is not a dict with a 'type'",
                 'num_layers=1000000000 is beyond any'):
        assert part in said


def test_errors_of_the_parts_come_together(cfg, tmp_path):
    (tmp_path / 'empty').mkdir()
    good, said = check(cfg, **{
        'model.aligned_layers': [(7, 8)],
        'train_dataloader.dataset.data_root': str(tmp_path / 'empty'),
        'optim_wrapper.optimizer.lr': -1,
        'custom_hooks.0.x': 1,
    })
    assert not good and said.startswith('4 problems:'), said
    assert '- model (DMAE): ValueError: aligned_layers' in said
    assert '- train_dataloader.dataset (CustomDataset): RuntimeError' in said
    assert '- optim_wrapper.optimizer (AdamW): ValueError: Invalid ' in said
    assert '- custom_hooks.0 (TeacherHook): TypeError: TeacherHook has' in said
    assert not (tmp_path / 'some').exists()


@pytest.mark.parametrize('options, message', [
    ({'model.neck.decoder_num_heads': 3},
     'model.neck (MAEPretrainDecoder): RuntimeError'),
    ({'train_dataloader.prefetch_factor': 2}, 'train_dataloader: ValueError'),
])
def test_errors_of_the_step(cfg, tmp_path, options, message):
    good, said = check(cfg, **options)
    assert not good and said.startswith('1 problem:\n- ' + message), said
    assert not (tmp_path / 'some').exists()


def with_two_teachers(cfg):
    cfg = runs.with_two_teachers(cfg)
    cfg.model.teachers.mae.target.num_images = 8
    return cfg


def test_two_teachers(cfg, tmp_path):
    before = files(tmp_path)
    _, alone = check(copy.deepcopy(cfg))
    good, said = check(with_two_teachers(cfg))
    assert good, said
    one, both = (size_of('teacher', text) for text in (alone, said))
    # Six blocks of 32, of which four are kept; and four of 16.
    assert 1.2 * one < both < 1.6 * one
    assert files(tmp_path) == before


def test_each_missing_teacher_is_named(cfg):
    options = {
        f'model.teachers.{name}.teacher.{key}': value
        for name in ('mae', 'dino')
        for key, value in dict(checkpoint=f'gone/{name}.pth',
                               allow_random=False).items()
    }
    good, said = check(with_two_teachers(cfg), **options)
    assert not good and said.startswith('2 problems:')
    for name in ('mae', 'dino'):
        assert (f"there is no checkpoint 'gone/{name}.pth': set --cfg-options "
                f'model.teachers.{name}.teacher.checkpoint=/path/to/file'
                ) in said


def test_too_few_images_to_measure(cfg):
    cfg = with_two_teachers(cfg)
    cfg.model.teachers.mae.target.num_images = 9
    good, said = check(cfg)
    assert not good and 'teachers.mae.target: num_images=9, but ' in said


def test_a_teacher_that_is_another_model(cfg, tmp_path):
    torch.save(dict(state_dict=dict(a=torch.ones(1))), tmp_path / 'a.pth')
    good, said = check(cfg, **{
        'model.teacher.checkpoint': str(tmp_path / 'a.pth'),
        'model.teacher.allow_random': False})
    assert not good and f'{tmp_path}/a.pth' in said


def test_a_full_disk(cfg, monkeypatch):
    monkeypatch.setattr(measure.shutil, 'disk_usage',
                        lambda path: type('Usage', (), dict(free=1000)))
    good, said = check(cfg)
    assert not good
    assert re.search(r'has 1 kB free, but checkpoints need \S+ [kM]B', said)


def test_a_work_dir_that_cannot_be_written(cfg):
    cfg.work_dir = '/dev/null/out'
    good, said = check(cfg, **{'model.teacher.checkpoint': 'gone.pth'})
    assert not good and said.startswith('2 problems:')
    assert "cannot write to the work dir '/dev/null/out'" in said


def test_a_start_that_fails_ends_with_a_short_message(cfg, tmp_path):
    os.makedirs(cfg.work_dir)
    complete_config(cfg, {'model.neck.decoder_num_heads': 3})
    with pytest.raises(SystemExit) as stop:
        start(cfg)
    lines = stop.value.code.splitlines()
    assert lines[0].startswith('error: model.neck (MAEPretrainDecoder): ')
    assert lines[-1].startswith('The run was not started. Traceback: ')
    with open(os.path.join(cfg.work_dir, TRACEBACK)) as file:
        assert 'in run_iter' in file.read()


def test_a_later_error_is_left_as_it_is(cfg, tmp_path):
    os.makedirs(cfg.work_dir)
    complete_config(cfg, {})
    cfg.custom_hooks = [dict(type='CrashAtThird')]
    with pytest.raises(ZeroDivisionError):
        start(cfg)


def test_a_loss_that_is_not_finite_ends_with_a_message(cfg, tmp_path):
    os.makedirs(cfg.work_dir)
    complete_config(cfg, {'optim_wrapper.optimizer.lr': 1e30})
    cfg.default_hooks.runtime_info = dict(type='FiniteLossHook')
    with pytest.raises(SystemExit) as stop:
        start(cfg)
    assert 'loss_recon=nan' in stop.value.code
    assert 'python tools/replay_step.py' in stop.value.code


@pytest.fixture
def broken(cfg):
    """Twelve images, of which the first is none."""
    folder = cfg.train_dataloader.dataset.data_root
    for index in range(8, 12):
        shutil.copy(f'{folder}/0.png', f'{folder}/{index}.png')
    with open(f'{folder}/0.png', 'w') as file:
        file.write('no image')
    pipeline = cfg.train_dataloader.dataset.pipeline
    pipeline[0].type = 'LoadImageOrSkip'
    pipeline[2].meta_keys = ('img_path', 'sample_idx', 'skipped_images')
    return cfg


def test_a_broken_first_image_that_is_skipped(broken):
    broken.custom_hooks.append(dict(type='SkippedImagesHook'))
    good, said = check(broken)
    assert good, said
    note, = [line for line in said.splitlines() if line.startswith('Note: ')]
    assert "0.png' is broken and would be skipped: no image" in note


def test_a_broken_first_image_that_is_not_skipped(broken):
    good, said = check(broken)
    assert not good and said.startswith('1 problem:\n- train_dataloader.')
    assert "0.png' cannot be used" in said


def test_a_schedule_that_is_longer_than_the_training(cfg):
    cfg.param_scheduler = [
        dict(type='LinearLR', end=2, convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', begin=2, T_max=4, end=6)]
    good, said = check(cfg)
    assert good, said
    assert said.endswith(
        "Note: the learning rate's schedule ends at epoch 6, the training at "
        '2: change what is too long among param_scheduler.0.end=2, '
        'param_scheduler.1.begin=2, param_scheduler.1.end=6, '
        'param_scheduler.1.T_max=4; or give tools/train.py --epochs 2 instead '
        'of train_cfg.max_epochs=2')


def test_a_warm_up_of_a_part_of_an_epoch(cfg):
    cfg.param_scheduler = [
        dict(type='LinearLR', end=2, convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', begin=2, T_max=8, end=10,
             convert_to_iter_based=True)]
    cfg.train_cfg.max_epochs = 10
    set_epochs(cfg, 2)
    good, said = check(cfg)
    assert good and 'schedule' not in said, said


def test_the_console_has_no_line_for_each_parameter(cfg):
    logger = MMLogger.get_instance(f'{cfg.experiment_name}_before')
    logger.handlers[0].setStream(console := io.StringIO())
    logger.warning('shown')
    assert check(cfg, **{'optim_wrapper.paramwise_cfg.bias_lr_mult': 2.})[0]
    assert 'shown' in console.getvalue()
    assert 'paramwise_options' not in console.getvalue()


def test_images_per_step_that_the_learning_rate_is_meant_for(cfg):
    cfg.optim_wrapper.accumulative_counts = 4
    cfg.auto_scale_lr = dict(base_batch_size=16, enable=False)
    good, said = check(cfg, **{'optim_wrapper.accumulative_counts': 1})
    assert good, said
    said = ' '.join(said.split())
    assert 'Images per optimizer step: 2 in each process (2 x 1' in said
    assert ('meant for 16 images per optimizer step, all processes together; '
            'here each brings 2: --auto-scale-lr adapts it.') in said


def _register():
    from mmengine.hooks import Hook
    from mmpretrain.registry import HOOKS

    @HOOKS.register_module(force=True)
    class CrashAtThird(Hook):

        def after_train_iter(self, runner, *args, **kwargs):
            if runner.iter == 2:
                raise ZeroDivisionError


_register()


def test_files_are_counted(cfg, tmp_path):
    folder = tmp_path / 'run' / 'images'
    (folder / 'notes.txt').write_text('no image')
    (folder / 'photo.heic').write_text('no image')
    cfg.train_dataloader.dataset.pipeline[0].type = 'LoadImageOrSkip'
    good, said = check(cfg)
    assert good and ('train_dataloader: '
                     f'{folder}: 10 files, 8 used, 2 ignored (1 .heic, '
                     '1 .txt); 8 of 8 images decoded, 0 broken') in said


@pytest.mark.parametrize('skip', [False, True])
def test_broken_files_are_counted(cfg, tmp_path, skip):
    """Also those that are not the first to be read."""
    for name in ('6.png', '7.png'):
        (tmp_path / 'run' / 'images' / name).write_bytes(b'')
    cfg.train_dataloader.dataset.pipeline[0].type = 'LoadImageOrSkip'
    cfg.train_dataloader.dataset.pipeline[2].meta_keys = (
        'img_path', 'sample_idx', 'skipped_images')
    if skip:
        cfg.custom_hooks.append(
            dict(type='SkippedImagesHook', max_fraction=.5))
    good, said = check(cfg)
    assert good == skip
    assert '8 of 8 images decoded, 2 broken' in said
    if skip:
        assert said.count('is broken and would be skipped: empty file') == 2
    else:
        assert re.search('2 images are broken, and each would end the run: '
                         ".*6.png' .empty file.*SkippedImagesHook", said)
