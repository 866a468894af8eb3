"""tools/train.py, test.py and the launch scripts, run as a person does."""
import json
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import List

import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS

from tests.toys.models import ROOT, TOY_MODEL
from tests.toys.runs import (LAUNCHER_VARIABLES, TRAIN, free_port, launch,
                             write_toy_run)

@pytest.fixture
def config(tmp_path: Path) -> Path:
    # The blank finds every path that a script forgot to quote.
    return write_toy_run(tmp_path / 'a folder')


@pytest.mark.slow
def test_two_processes_train_and_resume(config):
    command = [ROOT / 'tools' / 'dist_train.sh', config, 2, '--cfg-options']
    amp = [
        'optim_wrapper.type=AmpOptimWrapper', 'optim_wrapper.dtype=bfloat16'
    ]
    output = launch([*command, *amp], config.parent, PORT=free_port())
    work_dir = config.parent / 'work_dirs' / 'toy_run'
    # Eight images in batches of two, shared by two processes.
    assert 'Epoch(train) [2][2/2]' in output
    assert 'loss_align_s2_t3' in output
    assert output.count('No accelerator: AmpOptimWrapper is replaced') == 1
    second = torch.load(work_dir / 'epoch_2.pth', weights_only=False)

    output = launch([*command, 'train_cfg.max_epochs=3', '--resume'],
                 config.parent,
                 PORT=free_port())
    assert 'Epoch(train) [3][2/2]' in output
    assert 'Epoch(train) [2]' not in output
    third = torch.load(work_dir / 'epoch_3.pth', weights_only=False)
    assert third['meta']['iter'] == second['meta']['iter'] + 2 == 6
    name = 'backbone.layers.0.attn.qkv.weight'
    step = third['state_dict'][name] - second['state_dict'][name]
    assert 0 < step.abs().max() <= 2 * 1.5e-3  # two AdamW steps of lr 1e-3


@pytest.mark.slow
def test_clone_trains_with_its_own_code(config):
    """Whether or not another copy of dmae_mm is installed."""
    clone = config.parent / 'clone'
    shutil.copytree(ROOT / 'dmae_mm', clone / 'dmae_mm')
    shutil.copytree(ROOT / 'tools', clone / 'tools')
    with open(clone / 'dmae_mm' / '__init__.py', 'a') as file:
        file.write('print("This is the clone.")\n')
    output = launch([
        sys.executable, clone / 'tools' / 'train.py', config, '--work-dir',
        'out'
    ], config.parent)
    assert output.count('This is the clone.') == 1
    assert (config.parent / 'out' / 'epoch_2.pth').is_file()


@pytest.mark.slow
def test_the_same_command_again_writes_over_nothing(config):
    """Refused in a few lines; nothing but the name of the option allows it."""
    command = [sys.executable, TRAIN, config, '--work-dir', 'out']
    launch(command, config.parent)
    before = {path: path.stat().st_mtime_ns
              for path in config.parent.rglob('*.pth')}
    result = subprocess.run(command, cwd=config.parent, capture_output=True,
                            text=True)
    said = result.stderr[result.stderr.index('error: '):]
    assert result.returncode == 1 and said.count('\n') < 5
    assert 'finished at epoch 2 of 2 (' in said and '--overwrite' in said
    assert before == {path: path.stat().st_mtime_ns
                      for path in config.parent.rglob('*.pth')}
    launch([*command, '--overwrite'], config.parent)
    assert all(path.stat().st_mtime_ns > old for path, old in before.items())


@pytest.mark.slow
def test_resume_from_a_given_checkpoint(config):
    launch([sys.executable, TRAIN, config, '--work-dir', 'out'], config.parent)
    output = launch([
        sys.executable, TRAIN, config, '--work-dir', 'resumed', '--resume',
        'out/epoch_1.pth'
    ], config.parent)
    assert 'Epoch(train) [1]' not in output
    assert (config.parent / 'resumed' / 'epoch_2.pth').is_file()


@pytest.mark.slow
def test_slurm(config):
    """`srun` is stood in for by a script that starts a single task."""
    srun = config.parent / 'bin' / 'srun'
    srun.parent.mkdir()
    srun.write_text('#!/usr/bin/env bash\n'
                    'printf "srun:%s\\n" "$@"\n'
                    'while [[ $1 == -* ]]; do shift; done\n'
                    'SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NTASKS=1 "$@"\n')
    srun.chmod(0o755)
    output = launch([
        ROOT / 'tools' / 'slurm_train.sh', 'gpu', 'a job', config, 'my out',
        '--cfg-options', 'train_cfg.max_epochs=1'
    ],
                 config.parent,
                 PATH=f'{srun.parent}:{os.environ["PATH"]}',
                 GPUS='1',
                 SRUN_ARGS='--time=1:00 --mem=4G',
                 MASTER_ADDR='127.0.0.1',
                 MASTER_PORT=free_port())
    arguments = re.findall('^srun:(.*)$', output, re.MULTILINE)
    for argument in ('--partition=gpu', '--job-name=a job', '--ntasks=1',
                     '--gres=gpu:1', '--time=1:00', '--mem=4G', str(config),
                     'my out'):
        assert argument in arguments
    assert 'launcher = \'slurm\'' in output
    assert (config.parent / 'my out' / 'epoch_1.pth').is_file()


@pytest.mark.slow
def test_classifier_is_evaluated(config):
    """tools/test.py hands over to mmpretrain's script."""
    model = dict(
        type='ImageClassifier',
        backbone=dict(
            type='VisionTransformer',
            arch=TOY_MODEL['backbone']['arch'],
            img_size=32,
            patch_size=8),
        head=dict(type='VisionTransformerClsHead', num_classes=2,
                  in_channels=24))
    classes = config.parent / 'classes'
    for name in 'ab':
        shutil.copytree(config.parent / 'images', classes / name)
    cfg = Config(
        dict(
            custom_imports=dict(
                imports=['dmae_mm'], allow_failed_imports=False),
            default_scope='mmpretrain',
            model=model,
            data_preprocessor=dict(num_classes=2),
            test_dataloader=dict(
                batch_size=4,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=dict(
                    type='CustomDataset',
                    data_root=str(classes),
                    pipeline=[
                        dict(type='LoadImageFromFile'),
                        dict(type='Resize', scale=32),
                        dict(type='PackInputs')
                    ])),
            test_cfg=dict(),
            test_evaluator=dict(type='Accuracy', topk=(1, ))))
    cfg.dump(config.parent / 'classifier.py')
    torch.save(MODELS.build(model).state_dict(), config.parent / 'student.pth')
    output = launch([
        sys.executable, ROOT / 'tools' / 'test.py', 'classifier.py',
        'student.pth', '--out', 'metrics.json', '--out-item', 'metrics'
    ], config.parent)
    assert 'Load checkpoint from student.pth' in output
    metrics = json.loads((config.parent / 'metrics.json').read_text())
    # The two classes hold the same images: each is right for one of them.
    assert metrics == {'accuracy/top1': 50.0}


def refusal(arguments: List[str], monkeypatch, capsys) -> str:
    """What tools/train.py says when it refuses its arguments."""
    monkeypatch.setattr(sys, 'argv',
                        [str(TRAIN), *(str(part) for part in arguments)])
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.setattr('mmengine.device.get_device', lambda: 'cpu')
    monkeypatch.setenv('LOCAL_RANK', '0')
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(TRAIN), run_name='__main__')
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize('arguments, message', [
    (['missing.py'], "There is no config 'missing.py'"),
    (['{config}', '--resume', 'missing.pth'],
     "there is no checkpoint 'missing.pth' to resume from"),
    (['{config}', '--amp'], '--amp needs an accelerator'),
    (['{config}', '--cfg-options', 'epochs'],
     '--cfg-options takes KEY=VALUE pairs'),
    (['{config}', '--launcher', 'pytorch'], 'environment variable RANK'),
    (['{config}', '--launcher', 'slurm'], 'environment variable SLURM_PROCID'),
    (['{config}', '--launcher', 'mpi'],
     'environment variable OMPI_COMM_WORLD_RANK'),
    (['{config}', '--launcher', 'pytorch', '--check'],
     'toy_run.py --check`, without tools/dist_train.sh or srun'),
    (['{config}', '--auto-scale-lr'], 'auto_scale_lr=dict(base_batch_size='),
    (['{config}', '--data', 'x'],
     '--data x. Give --cfg-options train_dataloader.dataset.data_root=x'),
    (['{config}', '--cfg-options', 'lr=1'],
     'Give the full name: optim_wrapper.optimizer.lr=1'),
    (['{config}', '--cfg-options', 'model.backbone.img_size=64',
      'model.neck.num_patches=64'],
     'set train_dataloader.dataset.pipeline.1.scale=64, or img_size'),
    (['{config}', '--work-dir', '{config}/out'],
     'cannot write to the work dir'),
    (['{config}', '--cfg-options', 'model=None', 'train_cfg=None'],
     'it has no model, train_cfg'),
    (['{config}', '--cfg-options', 'trian_dataloader.batch_size=4'],
     "no section 'trian_dataloader'; did you mean 'train_dataloader'?"),
    (['{config}', '--cfg-options', 'train_dataloader.dataset.data_root=gone'],
     "there is no folder 'gone' to train on"),
    (['{config}', '--cfg-options', 'train_dataloader.dataset.type=ImageSubset',
      'train_dataloader.dataset.data_root=gone'],
     "there is no folder 'gone' to train on"),
])
def test_refusals(config, arguments, message, monkeypatch, capsys):
    for name in list(os.environ):
        if LAUNCHER_VARIABLES.fullmatch(name):
            monkeypatch.delenv(name)
    arguments = [part.format(config=config) for part in arguments]
    assert message in refusal(arguments, monkeypatch, capsys)


def test_the_local_rank_may_come_as_an_option(monkeypatch, capsys):
    """As from torch.distributed.launch, which sets the other variables."""
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'):
        monkeypatch.setenv(name, '0')
    monkeypatch.delenv('LOCAL_RANK')
    monkeypatch.setattr(sys, 'argv', [
        str(TRAIN), 'gone.py', '--launcher', 'pytorch', '--local-rank', '0'])
    with pytest.raises(SystemExit):
        runpy.run_path(str(TRAIN), run_name='__main__')
    assert "There is no config 'gone.py'" in capsys.readouterr().err


def test_a_config_that_cannot_be_read(config, monkeypatch, capsys):
    config.write_text('model = 1 / 0')
    said = refusal([config], monkeypatch, capsys)
    assert (f'The config {config} cannot be read: ZeroDivisionError: division '
            'by zero') in said
    assert 'Traceback' not in said


@pytest.mark.parametrize('flag, key, without, with_flag', [
    ('--amp', 'optim_wrapper.type', 'OptimWrapper', 'AmpOptimWrapper'),
    ('--no-pin-memory', 'train_dataloader.pin_memory', True, False),
    ('--no-persistent-workers', 'train_dataloader.persistent_workers', True,
     False),
    ('--no-validate', 'val_cfg.fp16', False, None),
    ('--resume', 'resume', None, True),
    ('--overwrite', 'overwrite', None, True),
])
def test_each_flag_changes_what_it_says(config, flag, key, without,
                                        with_flag):
    config.write_text(config.read_text() + (
        '\ntrain_dataloader.update(pin_memory=True, persistent_workers=True, '
        'num_workers=1)\nval_cfg = dict(fp16=False)\n'))
    script = runpy.run_path(str(TRAIN))
    parser = script['build_parser']()
    for flags, wanted in (([], without), ([flag], with_flag)):
        cfg = script['load_config'](
            parser, parser.parse_args([str(config), *flags]))
        for part in key.split('.'):
            cfg = None if cfg is None else cfg.get(part)
        assert cfg == wanted


def test_without_workers_none_are_kept(config):
    config.write_text(config.read_text() + (
        '\ntrain_dataloader.update(persistent_workers=True, num_workers=2)\n'))
    script = runpy.run_path(str(TRAIN))
    parser = script['build_parser']()
    for options, kept in (([], True), ([
            '--cfg-options', 'train_dataloader.num_workers=0'], False)):
        cfg = script['load_config'](
            parser, parser.parse_args([str(config), *options]))
        assert cfg.train_dataloader.persistent_workers is kept


def test_epochs(config, monkeypatch, capsys):
    config.write_text(config.read_text() + (
        "\nparam_scheduler = [dict(type='CosineAnnealingLR', end=2)]\n"))
    script = runpy.run_path(str(TRAIN))
    parser = script['build_parser']()
    cfg = script['load_config'](
        parser, parser.parse_args([str(config), '--epochs', '6']))
    assert (cfg.train_cfg.max_epochs, cfg.param_scheduler[0].end) == (6, 6)
    for arguments, message in (
        (['0'], '--epochs: 0 epochs: a whole number of at least 1'),
        (['1', '--cfg-options', 'train_cfg.max_epochs=2'], 'both given')):
        assert message in refusal([config, '--epochs', *arguments],
                                  monkeypatch, capsys)


def test_missing_folder_of_a_repeated_data_set(config, monkeypatch, capsys):
    config.write_text(config.read_text() + (
        '\ntrain_dataloader.update(dataset=dict(type="RepeatDataset", times=2,'
        ' dataset=dict(type="CocoDataset", data_root="gone")))\n'))
    said = refusal([str(config)], monkeypatch, capsys)
    assert ("there is no folder 'gone' to train on: set --cfg-options "
            'train_dataloader.dataset.dataset.data_root=' in said)


@pytest.mark.parametrize('scope, collate', [
    ('mmpretrain', dict(type='default_collate')),
    ('mmseg', None),
    ('mmdet', None),
])
def test_other_toolboxes_take_lists_of_images(config, scope, collate):
    text = config.read_text().replace("default_scope = 'mmpretrain'",
                                      f'default_scope = {scope!r}')
    config.write_text(text + '\ntrain_dataloader.pop("collate_fn")\n')
    script = runpy.run_path(str(TRAIN))
    parser = script['build_parser']()
    cfg = script['load_config'](parser, parser.parse_args([str(config)]))
    assert cfg.default_scope == scope
    assert cfg.train_dataloader.get('collate_fn') == collate


@pytest.mark.slow
def test_the_console_is_spared_a_line_for_each_parameter(config):
    # A factor of its own makes mmengine log it for each bias.
    output = launch([
        sys.executable, TRAIN, config, '--work-dir', 'out', '--cfg-options',
        'train_cfg.max_epochs=1',
        'optim_wrapper.paramwise_cfg.bias_lr_mult=2.'
    ], config.parent)
    log = next((config.parent / 'out').glob('*/*.log')).read_text()
    assert 'paramwise_options' in log
    assert 'paramwise_options' not in output
    assert 'Epoch(train)' in output


@pytest.mark.parametrize('script, arguments, message', [
    ('dist_train.sh', [], 'usage: '),
    ('dist_train.sh', ['config.py'], 'usage: '),
    ('dist_train.sh', ['config.py', '--amp'], "number, but is '--amp'"),
    ('dist_train.sh', ['config.py', '0'], "number, but is '0'"),
    ('slurm_train.sh', ['gpu', 'job', 'config.py'], 'usage: '),
])
def test_launch_scripts_explain_themselves(script, arguments, message):
    result = subprocess.run([ROOT / 'tools' / script, *arguments],
                            capture_output=True,
                            text=True)
    assert result.returncode == 2
    assert message in result.stderr


@pytest.fixture
def ports(tmp_path):
    """Start dist_train.sh without training; the arguments of torchrun."""
    python = tmp_path / 'python'
    python.write_text('#!/usr/bin/env bash\n'
                      f'[ "$1" = - ] && exec {sys.executable} "$@"\n'
                      'echo "$@"\n')
    python.chmod(0o755)

    def start(**variables):
        inherited = {name: value for name, value in os.environ.items()
                     if not LAUNCHER_VARIABLES.fullmatch(name)}
        result = subprocess.run(
            [ROOT / 'tools' / 'dist_train.sh', 'config.py', '2'],
            env=dict(inherited, PYTHON=str(python), **variables),
            capture_output=True, text=True)
        found = re.search(r'--master_port=(\d+)', result.stdout)
        return found and int(found[1]), result.stderr
    return start


def test_runs_on_one_machine_get_ports_of_their_own(ports):
    first, said = ports()
    assert first >= 1024 and not said
    with socket.socket() as other:
        other.bind(('', first))
        other.listen()
        second, said = ports()
        assert second >= 1024 and second != first and not said
        for variables in {}, {'NNODES': '2', 'NODE_RANK': '0'}:
            taken, said = ports(PORT=str(first), **variables)
            assert taken is None
            assert said.startswith(f'port {first} cannot be had: Address')
            assert said.count('\n') == 1
        # Another machine listens there, whatever this one does.
        assert ports(PORT=str(first), NNODES='2', NODE_RANK='1')[0] == first


def test_several_machines_have_a_port_that_all_know(ports):
    assert ports(NNODES='2', NODE_RANK='1')[0] == 29500
    assert ports(NNODES='2', NODE_RANK='1', PORT='1234')[0] == 1234
    assert ports(PORT='x1') == (
        None, 'PORT=x1 is not a number from 1 to 65535\n')


def test_mim_passes_no_option_of_its_own(monkeypatch, capsys):
    """mim searches the help for this string, and passes the option if so."""
    monkeypatch.setattr(sys, 'argv', [str(TRAIN), '--help'])
    monkeypatch.setattr(sys, 'path', list(sys.path))
    with pytest.raises(SystemExit):
        runpy.run_path(str(TRAIN), run_name='__main__')
    assert '--gpus' not in capsys.readouterr().out
