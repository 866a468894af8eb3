"""The converter's command: what it writes, says and refuses."""
import argparse
import hashlib
import os
import runpy
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from mmengine.runner import CheckpointLoader, load_checkpoint
from mmpretrain.registry import MODELS

from dmae_mm.weights import mae_to_mmpretrain

from tests.toys.checkpoints import encoder_only, golden_weights
from tests.toys.models import ROOT, STUDENT

SCRIPT = str(ROOT / 'tools' / 'model_converters' / 'mae_to_mmpretrain.py')
MAIN = runpy.run_path(SCRIPT)['main']


@pytest.fixture
def src(tmp_path):
    """A file as the public code writes it while training."""
    path = tmp_path / 'checkpoint-99.pth'
    torch.save(
        dict(
            model=golden_weights('student'),
            optimizer=dict(state={}, param_groups=[]),
            epoch=99,
            scaler={},
            args=argparse.Namespace(lr=1e-3)), path)
    return path


def refused(capsys, *argv):
    """The error on stderr, of a run that exits with 1 and writes nothing."""
    with pytest.raises(SystemExit) as stop:
        MAIN([str(arg) for arg in argv])
    assert isinstance(stop.value.code, str)  # Python prints it, and exits 1
    assert capsys.readouterr().out == ''
    return stop.value.code


def test_student_of_the_public_code(tmp_path, src, toy_model, capsys):
    dst = tmp_path / 'new' / 'student.pth'
    MAIN([str(src), str(dst)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:5]] == [
        ['backbone.*', '54', 'tensors', '34,008', 'values'],
        ['neck.*', '32', 'tensors', '10,544', 'values'],
        ['distill_neck.*', '2', 'tensors', '800', 'values'],
        ['head.*', '0', 'tensors', '0', 'values'],
    ]
    assert lines[5] == ('Not carried over, because they are no weights: '
                        'optimizer, epoch, scaler, args.')
    digest = hashlib.sha256(src.read_bytes()).hexdigest()
    assert str(src) in lines[0] and digest in lines[0]
    assert str(dst) in lines[6] and '88 tensors' in lines[6]

    meta = CheckpointLoader.load_checkpoint(str(dst))['meta']
    assert meta['source'] == str(src) and meta['sha256'] == digest
    assert meta['not_carried_over'] == ['optimizer', 'epoch', 'scaler', 'args']
    model = MODELS.build(toy_model)
    load_checkpoint(model, str(dst), strict=True)
    wanted = mae_to_mmpretrain(golden_weights('student'))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, wanted[name])


def test_encoder_feeds_a_classifier_by_init_cfg(tmp_path):
    """As every downstream config does, with nothing but the prefix."""
    src, dst = tmp_path / 'mae.safetensors', tmp_path / 'vit.pth'
    weights = encoder_only(golden_weights('student'))
    safetensors.torch.save_file(weights, src)
    MAIN([str(src), str(dst)])
    vit = MODELS.build(
        dict(
            type='VisionTransformer',
            arch=STUDENT,
            img_size=32,
            patch_size=8,
            init_cfg=dict(
                type='Pretrained', checkpoint=str(dst), prefix='backbone.')))
    vit.init_weights()
    state = vit.state_dict()
    wanted = mae_to_mmpretrain(weights)
    assert {f'backbone.{name}' for name in state} == wanted.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, wanted[f'backbone.{name}'])


def test_fine_tuned_model(tmp_path, capsys):
    src, dst = tmp_path / 'tuned.pth', tmp_path / 'tuned.safetensors'
    weights = encoder_only(golden_weights('student'))
    for kind in ('weight', 'bias'):
        weights[f'fc_norm.{kind}'] = weights.pop(f'norm.{kind}')
    weights.update({
        'head.weight': torch.rand(10, 24),
        'head.bias': torch.rand(10)
    })
    torch.save(dict(model=weights), src)
    MAIN([str(src), str(dst)])
    out = capsys.readouterr().out
    assert 'no weights: nothing.' in out
    written = safetensors.torch.load_file(dst)
    assert len(written) == len(weights)
    assert torch.equal(written['head.fc.weight'], weights['head.weight'])
    assert torch.equal(written['backbone.ln2.bias'], weights['fc_norm.bias'])


def test_existing_destination(tmp_path, src, capsys):
    dst = tmp_path / 'dst.pth'
    dst.write_text('precious')
    assert 'exists already' in refused(capsys, src, dst)
    assert dst.read_text() == 'precious'
    MAIN([str(src), str(dst), '--force'])
    assert 'backbone.cls_token' in torch.load(
        dst, weights_only=True)['state_dict']


@pytest.mark.parametrize('alias', ['same', 'relative', 'link'])
def test_source_is_never_overwritten(tmp_path, src, alias, capsys):
    before = src.read_bytes()
    dst = dict(
        same=src,
        relative=tmp_path / '..' / tmp_path.name / src.name,
        link=tmp_path / 'link.pth')[alias]
    if alias == 'link':
        os.symlink(src, dst)
    assert 'is the source itself' in refused(capsys, src, dst, '--force')
    assert src.read_bytes() == before


def broken(path, kind):
    """Write a source that cannot be converted."""
    if kind == 'missing':
        return
    if kind == 'truncated':
        torch.save(dict(model=golden_weights('student')), path)
        path.write_bytes(path.read_bytes()[:-1000])
        return
    torch.save(
        dict(
            hostile=torch.nn.Linear(1, 1),
            converted=dict(
                state_dict=mae_to_mmpretrain(golden_weights('student'))),
            backbone={'layers.0.ln1.weight': torch.ones(1)},
            unknown=dict(
                model=dict(golden_weights('student'), gate=torch.ones(1))),
            nothing=dict(epoch=1))[kind], path)


@pytest.mark.parametrize('kind, message', [
    ('missing', 'src.pth does not exist'),
    ('truncated', 'src.pth cannot be read'),
    ('hostile', 'src.pth is refused: it asks for torch.nn.modules.linear.'),
    ('converted', "src.pth already has mmpretrain's names (backbone."),
    ('backbone', "src.pth already has mmpretrain's names (layers.0.ln1."),
    ('unknown', 'src.pth cannot be converted. These tensors belong neither '
     'to MAE nor to DMAE: gate.'),
    ('nothing', "src.pth holds no named tensors, but 'epoch'"),
])
def test_refused_sources(tmp_path, kind, message, capsys):
    src = tmp_path / 'src.pth'
    broken(src, kind)
    before = sorted(tmp_path.iterdir())
    error = refused(capsys, src, tmp_path / 'new' / 'dst.pth')
    assert error.startswith('error: ') and message in error
    assert sorted(tmp_path.iterdir()) == before


def test_destination_is_checked_before_the_source_is_read(tmp_path, capsys):
    none = tmp_path / 'none.pth'
    assert 'must end in .pth' in refused(capsys, none, tmp_path / 'dst.bin')


@pytest.mark.slow
def test_as_a_command(tmp_path, src):
    done = subprocess.run([sys.executable, SCRIPT, src.name, 'dst.pth'],
                          cwd=tmp_path,
                          capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    assert 'Wrote dst.pth' in done.stdout
    assert (tmp_path / 'dst.pth').is_file()
