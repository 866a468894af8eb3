"""The command: does it say what arrived, and why something did not?"""
import subprocess
import sys

import pytest
import torch

from dmae_mm.weights import backbone_to_timm
from dmae_mm.weights.names import under_prefix

from tests.toys.models import STUDENT, TOY_MODEL
from tests.toys.models import classifier
from tests.toys.transfer_checks import (MAIN, SCRIPT, check, options, refused,
                                        toy, trained, write_config)

__all__ = ['toy']


def test_every_line(toy, capsys):
    lines = check(capsys, 'cfg.py', 'dmae.pth', *options(img_size=64))
    sha256 = lines[1].split()[2]
    assert len(sha256) == 9  # eight digits and the bracket
    assert lines == [
        'cfg.py: mmpretrain, VisionTransformer',
        f'dmae.pth (sha256 {sha256} as model.backbone.init_cfg.checkpoint, '
        "prefix 'backbone.'",
        'loaded: 51',
        '  cls_token                                (1, 1, 24)',
        '  patch_embed.projection.weight            (24, 3, 8, 8)',
        '  patch_embed.projection.bias              (24,)',
        '  layers.0-3.ln1.weight                    (24,)',
        '  layers.0-3.ln1.bias                      (24,)',
        '  layers.0-3.attn.qkv.weight               (72, 24)',
        '  layers.0-3.attn.qkv.bias                 (72,)',
        '  layers.0-3.attn.proj.weight              (24, 24)',
        '  layers.0-3.attn.proj.bias                (24,)',
        '  layers.0-3.ln2.weight                    (24,)',
        '  layers.0-3.ln2.bias                      (24,)',
        '  layers.0-3.ffn.layers.0.0.weight         (96, 24)',
        '  layers.0-3.ffn.layers.0.0.bias           (96,)',
        '  layers.0-3.ffn.layers.1.weight           (24, 96)',
        '  layers.0-3.ffn.layers.1.bias             (24,)',
        'resized: 1',
        '  pos_embed                                (1, 65, 24), in the '
        'checkpoint (1, 17, 24)',
        'left at initialisation: 0',
        'new: not in this pre-training: 2',
        '  ln2.weight                               (24,)',
        '  ln2.bias                                 (24,)',
        'unused in the checkpoint: 2',
        '  ln1.weight                               (24,), not needed here',
        '  ln1.bias                                 (24,), not needed here',
        'not for a backbone: neck.* (32), distill_neck.* (2), optimizer',
        'All 52 backbone tensors arrived (1 resized).',
    ]
    lines = check(capsys, 'cfg.py', 'dmae.pth', '--verbose')
    assert lines[2] == 'loaded: 52' and len(lines) == 2 + 53 + 2 + 3 + 3 + 2
    assert '  layers.3.ffn.layers.1.bias               (24,)' in lines


@pytest.mark.parametrize('changes, arrived, message', [
    (dict(), '0 of 52', "'backbone.' (52 of 52). Give model."
     "backbone.init_cfg=dict(type='Pretrained', checkpoint=..., "
     "prefix='backbone.')."),
    (dict(arch=dict(STUDENT, num_layers=3)), '40 of 40',
     'the file has 4 blocks instead of 3; layers.3.ln1.weight has no place in '
     'it; layers.3.ln1.bias has no place in it; layers.3.attn.qkv.weight has '
     'no place in it; layers.3.attn.qkv.bias has no place in it and 8 more. '
     'It holds 4 blocks, 24 wide; the backbone has 3, 24 wide. If it is the '
     'teacher'),
    (dict(arch=dict(STUDENT, num_layers=6)), '52 of 76',
     'It holds 4 blocks, 24 wide; the backbone has 6, 24 wide. Give a '
     "checkpoint of this size; or take a config of the file's size."),
    (dict(arch=dict(STUDENT, embed_dims=32)), '4 of 52',
     'It holds 4 blocks, 24 wide; the backbone has 4, 32 wide. Give a '),
    (dict(arch=dict(STUDENT, embed_dims=20)), '4 of 52',
     "If it is the teacher's, give the student's, which pre-training left "),
    (dict(arch=dict(STUDENT, feedforward_channels=48)), '40 of 52',
     'bias has shape (96,) instead of (48,) '
     'and 7 more. Give a checkpoint of this architecture'),
    (dict(type='MAEViT', out_type='raw', final_norm=True), '51 of 54',
     'MAEViT does not have its cls_token, pos_embed, patch_embed.projection.'
     'weight: its init_weights() overwrites'),
    (dict(layer_scale_init_value=.1), '52 of 60', 'gamma1.weight is missing'),
    (dict(type='ResNet', depth=18), '0 of 100', 'another kind of model'),
])
def test_what_does_not_fit(toy, capsys, changes, arrived, message):
    init_cfg = dict(
        type='Pretrained',
        checkpoint='x',
        prefix='backbone.' if changes else 'encoder.')
    model = classifier(STUDENT, backbone=dict(changes, init_cfg=init_cfg))
    if changes.get('type') == 'ResNet':
        model['backbone'] = dict(changes, init_cfg=init_cfg)
    table, error = refused(capsys, write_config(model), 'dmae.pth')
    assert error.startswith(f'{arrived} backbone tensors arrived. ')
    assert message in error
    assert len(table) < 50  # a screen


def save(state, name='other.pth'):
    torch.save(dict(state_dict=state), name)
    return name


def test_the_teachers_file(toy, capsys):
    """As mmpretrain has it, and with the student in one file."""
    teacher = trained(TOY_MODEL['teacher']['backbone'] | dict(mask_ratio=.75))
    teacher = {f'backbone.{name}': tensor for name, tensor in teacher.items()}
    table, error = refused(capsys, 'cfg.py', save(teacher))
    assert '  cls_token                                (1, 1, 24), in the ' \
        'checkpoint (1, 1, 32)' in table
    assert ('It holds 6 blocks, 32 wide; the backbone has 4, 24 wide. If it '
            "is the teacher's, give the student's") in error
    both = {f'teacher.{name}': tensor for name, tensor in teacher.items()}
    *_, line, verdict = check(capsys, 'cfg.py', save({**both, **toy}))
    assert verdict == 'All 52 backbone tensors arrived (0 resized).'
    assert line.startswith(f'not for a backbone: teacher.* ({len(both)}), ')


@pytest.mark.parametrize('names, prefix, message', [
    ('timm', 'backbone.', "which are names of FAIR's MAE or of timm. Convert "
     'it: python tools/model_converters/mae_to_mmpretrain.py other.pth DST '),
    ('bare', 'backbone.', "they fit under the prefix '' (52 of 52). Give "
     "model.backbone.init_cfg=dict(type='Pretrained', checkpoint=...)."),
    ('mmseg', 'backbone.', "exported for mmseg's MAE. Give the checkpoint"),
    ('module', 'backbone.', "of DistributedDataParallel, MMEngine finds no "
     'prefix. Write it anew: python tools/model_converters/export.py'),
])
def test_other_names(toy, capsys, names, prefix, message):
    bare = under_prefix(toy, 'backbone.')
    state = dict(
        timm=backbone_to_timm(bare),
        bare=bare,
        mmseg={**bare, 'layers.0.gamma_1': torch.ones(24)},
        module={f'module.{name}': tensor for name, tensor in toy.items()})
    table, error = refused(capsys, 'cfg.py', save(state[names]),
                           *options(**{'init_cfg.prefix': prefix}))
    assert error.startswith('0 of 52 backbone tensors arrived. ')
    assert message in error and 'loaded: 0' in table


@pytest.mark.parametrize('cfg, option', [
    (dict(pretrained='x'), 'model.pretrained'),
    (dict(init_cfg=dict(type='Pretrained', checkpoint='x')),
     'model.init_cfg.checkpoint'),
    (dict(), 'load_from'),
    (dict(load_from='x'), 'load_from'),
])
def test_other_places_for_the_checkpoint(toy, capsys, cfg, option):
    load_from = dict(load_from=cfg.pop('load_from', None))
    write_config(dict(classifier(STUDENT), **cfg), **load_from)
    lines = check(capsys, 'cfg.py', 'dmae.pth')
    assert lines[1].endswith(f" as {option}, prefix 'backbone.'")
    assert lines[-1] == 'All 52 backbone tensors arrived (0 resized).'


def test_two_places(toy, capsys):
    table, error = refused(capsys, 'cfg.py', 'dmae.pth', '--cfg-options',
                           'load_from=y')
    assert table == [] and error.startswith(
        'The config has model.backbone.init_cfg.checkpoint and '
        "load_from='y', which is loaded last")


def test_a_list_would_leave_positions(toy, capsys):
    init_cfg = dict(type='Pretrained', checkpoint='x', prefix='backbone.')
    write_config(classifier(STUDENT, backbone=dict(init_cfg=[init_cfg])))
    table, error = refused(capsys, 'cfg.py', 'dmae.pth')
    assert 'other values than in the checkpoint: 1' in table
    assert error.startswith('51 of 52 backbone tensors arrived. '
                            'VisionTransformer overwrites pos_embed')


def test_the_teacher_of_a_classifier_is_not_read(toy, capsys):
    """It has a file of its own, which is not what is asked here."""
    model = classifier(STUDENT)
    model.update(
        type='DistilledImageClassifier',
        aligned_layers=[(1, 1)],
        teacher=dict(
            type='MMPretrainTeacher',
            backbone=TOY_MODEL['teacher']['backbone'],
            checkpoint='no such file'))
    write_config(model, custom_imports=dict(imports=['dmae_mm']))
    assert check(capsys, 'cfg.py', 'dmae.pth')[-1].startswith('All 52 ')


def test_options_without_a_value(toy, capsys):
    with pytest.raises(SystemExit) as stop:
        MAIN(['cfg.py', 'dmae.pth', '--cfg-options', 'nonsense'])
    assert stop.value.code == 2
    assert '--cfg-options takes KEY=VALUE pairs' in capsys.readouterr().err


@pytest.mark.slow
def test_as_a_command(toy):
    command = [sys.executable, SCRIPT, 'cfg.py', 'dmae.pth'] + options(
        **{'init_cfg.prefix': 'encoder.'})
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.splitlines()[0].startswith('cfg.py: mmpretrain, ')
    assert done.stderr.splitlines()[-1].startswith('error: 0 of 52 backbone')
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('load_from', [False, True])
def test_as_many_patches_of_another_grid(toy, capsys, load_from):
    """4 x 4 in a backbone of 2 x 8."""
    if load_from:
        write_config(classifier(STUDENT), load_from='x')
    lines, error = refused(capsys, 'cfg.py', 'dmae.pth',
                           *options(img_size='(16,64)'))
    where = lines.index('scrambled: at the places of another grid of patches:'
                        ' 1')
    assert lines[where + 1].split()[0] == 'pos_embed'
    for part in ('4 x 4', '2 x 8', 'export.py MODEL dmae.pth DST --to '
                 'mmpretrain --img-size 16 64'):
        assert part in error
    # Of WindowedViT's map, the shape tells.
    init_cfg = dict(type='Pretrained', checkpoint='x', prefix='backbone.')
    write_config(dict(classifier(STUDENT), backbone=dict(
        type='WindowedViT', arch=STUDENT, img_size=(16, 64), patch_size=8,
        init_cfg=init_cfg)))
    assert '1 resized' in check(capsys, 'cfg.py', 'dmae.pth')[-1]


def test_other_heads_and_other_images(toy, capsys):
    said = dict(num_heads=3, mean=[1., 2, 3], std=[4., 5, 6])
    torch.save(dict(state_dict=toy, meta=dict(trained_as=said)), 'dmae.pth')
    lines, error = refused(capsys, 'cfg.py', 'dmae.pth')
    assert 'num_heads=3' in error and 'num_heads=2' in error
    assert lines[-1].startswith(
        'Note: it was trained on images of mean=[1.0, 2.0, 3.0]')


def test_swapped_arguments(toy, capsys):
    with pytest.raises(SystemExit) as stop:
        MAIN(['dmae.pth', 'cfg.py'])
    assert stop.value.code == (
        'error: dmae.pth is a checkpoint, not a config: give the config '
        'first, then the checkpoint.')
