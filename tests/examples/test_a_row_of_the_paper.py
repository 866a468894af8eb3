"""The page that reproduces a row, on models and images of toy size."""
import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS

from tests.toys.folders import write_classes
from tests.toys.models import ROOT, STUDENT, TEACHER
from tests.toys.recipes import ROWS
from tests.toys.runs import launch

EXAMPLE = 'examples/a_row_of_the_paper.py'
# What is added to copies of the recipes.
TOYS = {
    'dmae/vit-s_dmae_in1k.py': f'''
model['backbone'].update(arch={STUDENT})
model['neck'].update(
    embed_dim=24, decoder_embed_dim=16, decoder_depth=2, decoder_num_heads=2)
model['teacher']['backbone'] = dict(arch={TEACHER})
''',
    'benchmarks/vit-s_finetune_in1k.py': f'''
model['backbone']['arch'] = {STUDENT}
model['head']['in_channels'] = 24
''',
}
for name in TOYS:
    TOYS[name] += '''
train_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False)
'''
TOYS['benchmarks/vit-s_finetune_in1k.py'] += '''
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
'''


def example(cwd: Path, *options: str) -> str:
    return launch([sys.executable, EXAMPLE, *options], cwd,
                  PYTHONPATH=str(ROOT))


@pytest.fixture
def plan(monkeypatch, capsys):
    """What is printed by ``--plan``, in this process."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, 'path', list(sys.path))

    def printed(*options: str) -> str:
        monkeypatch.setattr(sys, 'argv', [EXAMPLE, '--plan', *options])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(EXAMPLE)
        assert not end.value.code
        return capsys.readouterr().out

    return printed


def hours(name: str) -> float:
    return float(ROWS[name].cells['GPU-hours'])


def test_costs_are_those_of_the_recipes(plan):
    said = plan('--gpus', '8').splitlines()
    assert [float(line.split()[1]) for line in said[:4]] == [
        hours(name) for name in ('vit-s_dmae', 'vit-s_mae', 'vit-s_finetune',
                                 'vit-s_finetune')
    ]
    total = hours('vit-s_dmae') + hours('vit-s_mae') + 2 * hours(
        'vit-s_finetune')
    assert f'{total:.3f} GPU-hours, about {total / 8:.3f} hours' in said[4]
    assert len(said) == 5  # nothing is trained


def test_a_rehearsal_costs_its_share(plan):
    said = plan('--epochs', '10', '--size', '112')
    assert float(said.split()[1]) == pytest.approx(
        hours('vit-s_dmae') / 40, abs=1e-3)


@pytest.mark.parametrize('gpus, accumulated', [(1, (32, 8)), (8, (4, 1))])
def test_without_options_the_recipes_are_trained(gpus, accumulated, tmp_path,
                                                 monkeypatch, capsys):
    """What is new in the written configs; nothing is trained."""
    commands = []

    def pretend(command):
        commands.append(list(command))
        work_dir = Path(command[2]).with_suffix('')
        work_dir.mkdir(exist_ok=True)
        (work_dir / 'epoch_100.pth').touch()
        (work_dir / 'test.json').write_text('{"accuracy/top1": 12.5}')
        return SimpleNamespace(returncode=0)

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.setattr(sys, 'argv', [
        EXAMPLE, '--gpus', str(gpus), '--out', str(tmp_path)])
    monkeypatch.setattr(subprocess, 'run', pretend)
    runpy.run_path(EXAMPLE)

    starts = {1: [sys.executable, 'tools/train.py'],
              8: ['bash', 'tools/dist_train.sh']}
    names = ('vit-s_dmae', 'vit-s_dmae_finetune', 'vit-s_mae',
             'vit-s_mae_finetune')
    assert commands == [[
        *starts[gpus], f'{tmp_path}/{name}.py', *['8'] * (gpus == 8),
        '--auto-scale-lr', '--resume'
    ] for name in names]
    for name, recipe in zip(names, (
            'dmae/vit-s_dmae', 'benchmarks/vit-s_finetune',
            'baselines/vit-s_mae', 'benchmarks/vit-s_finetune')):
        cfg = Config.fromfile(tmp_path / f'{name}.py')
        recipe = Config.fromfile(ROOT / 'configs' / f'{recipe}_in1k.py')
        if 'finetune' in name:
            assert cfg.model.backbone.init_cfg.checkpoint == (
                f'{tmp_path}/{name.removesuffix("_finetune")}/epoch_100.pth')
            cfg.model.backbone.init_cfg = recipe.model.backbone.init_cfg
        assert cfg.optim_wrapper.accumulative_counts == accumulated[
            'finetune' in name]
        # These are what the host takes where nothing is said.
        recipe.optim_wrapper.accumulative_counts = (
            cfg.optim_wrapper.accumulative_counts)
        recipe.model.backbone.img_size = 224
        for step in recipe.param_scheduler:
            step.pop('T_max', None)  # it is end - begin
        if 'finetune' not in name:
            recipe.model.neck.num_patches = 196
        for section in ('model', 'train_dataloader', 'val_dataloader',
                        'test_dataloader', 'optim_wrapper', 'train_cfg',
                        'param_scheduler', 'custom_hooks', 'randomness'):
            assert cfg.get(section) == recipe.get(section), section
    said = capsys.readouterr().out
    assert said.endswith('| DMAE | 12.50 | 79.3 |\n| plain MAE | 12.50 |  |\n')


@pytest.fixture
def clone(tmp_path):
    """A clone whose recipes are of toy size, and what they train on."""
    root = tmp_path / 'clone'
    root.mkdir()
    for name in ('dmae_mm', 'docs', 'examples', 'model-index.yml', 'studies',
                 'tools'):
        (root / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / 'configs', root / 'configs')
    for name, text in TOYS.items():
        with open(root / 'configs' / name, 'a') as file:
            file.write(text)
    for part, seed in (('train', 0), ('val', 1)):
        write_classes(root / 'data' / 'imagenet' / part, 3, 4, seed)
    teacher = Config.fromfile(
        root / 'configs/dmae/vit-s_dmae_in1k.py').model.teacher.backbone
    torch.manual_seed(0)
    model = MODELS.build(dict(teacher, img_size=224))
    torch.save({
        f'backbone.{name}': tensor
        for name, tensor in model.state_dict().items()
    }, root / 'teacher.pth')
    return root


@pytest.mark.slow
def test_a_rehearsal(clone):
    options = ('--teacher', 'teacher.pth', '--epochs', '2', '--images', '8',
               '--size', '64', '--out', 'out')
    said = example(clone, *options)
    assert said.count('$ ') == 6  # three stages of two students
    out = clone / 'out'
    accuracies = [
        json.loads((out / f'{name}_finetune' / 'test.json').read_text())
        ['accuracy/top1'] for name in ('vit-s_dmae', 'vit-s_mae')
    ]
    assert all(accuracy in (0, 12.5, 25, 37.5, 50, 62.5, 75, 87.5, 100)
               for accuracy in accuracies)  # of 8 images
    assert said.splitlines()[-6:] == [
        '| pre-training | ours | published |',
        '| --- | ---: | ---: |',
        f'| DMAE | {accuracies[0]:.2f} | 79.3 |',
        f'| plain MAE | {accuracies[1]:.2f} |  |',
        '',
        'A rehearsal: 2 epochs, 8 images, 64 px. It is not to be compared.',
    ]
    cfg = Config.fromfile(out / 'vit-s_dmae.py')
    assert cfg.train_cfg.max_epochs == 2
    assert cfg.model.teacher.checkpoint == 'teacher.pth'
    assert cfg.model.neck.num_patches == 16
    control = Config.fromfile(out / 'vit-s_mae.py')
    assert control.model.teacher is None
    # The classifiers began with the students.
    for name in ('vit-s_dmae', 'vit-s_mae'):
        cfg = Config.fromfile(out / f'{name}_finetune.py')
        assert cfg.model.backbone.init_cfg.checkpoint == (
            f'out/{name}/epoch_2.pth')
        assert [step.scale for step in cfg.val_dataloader.dataset.pipeline
                if step.type == 'ResizeEdge'] == [73]
    # Nothing is done twice, and nothing is mixed with another run.
    again = example(clone, *options)
    assert '$ ' not in again and again.splitlines()[-6:] == (
        said.splitlines()[-6:])
    with pytest.raises(AssertionError, match='vit-s_dmae.py is of a run with '
                       'other options. Give these, or another --out.'):
        example(clone, *options, '--epochs', '3')
