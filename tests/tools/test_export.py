"""The command: what it is given, and what it says."""
import runpy
import subprocess
import sys

import pytest
import torch

from dmae_mm.weights import read_tensor_file

from tests.toys.export_models import BACKBONES, run, timm_arguments, write
from tests.toys.models import ROOT

SCRIPT = str(ROOT / 'tools' / 'model_converters' / 'export.py')
MAIN = runpy.run_path(SCRIPT)['main']


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Config and checkpoint of a toy backbone, in the current folder."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, BACKBONES['MAEViT'], optimizer=dict(state={}))
    return ['config.py', 'source.pth']


def export(capsys, *argv):
    """The lines that the command prints."""
    MAIN([*argv])
    return capsys.readouterr().out.splitlines()


def refused(capsys, *argv):
    """The error on stderr, of a run that exits with 1."""
    with pytest.raises(SystemExit) as stop:
        MAIN([*argv])
    assert isinstance(stop.value.code, str)  # Python prints it, and exits 1
    assert capsys.readouterr().out == ''
    assert '\n' not in stop.value.code
    return stop.value.code


def test_what_is_printed(source, capsys):
    lines = export(capsys, *source, 'dst.pth', '--to', 'timm')
    file = read_tensor_file('source.pth')
    assert lines[:2] == [
        f'Read source.pth (sha256 {file.sha256}): {len(file.tensors)} '
        'tensors.', 'Not carried over: optimizer.'
    ]
    assert lines[2].startswith('Wrote dst.pth (0.2 MiB): ')
    assert lines[2].endswith(f' {len(file.tensors) + 2} tensors.')
    assert lines[3] == 'Note: head: zeros, not trained, 1000 classes.'
    assert lines[4].startswith('Loaded by timm ')
    assert 'outputs differ by no more than: patches ' in lines[4]
    assert lines[5] == 'Load it with:'
    assert len(lines) == 7 and lines[6].startswith('  timm.create_model(')


def test_options(source, capsys):
    """To timm and, by what is printed, back."""
    *_, usage = export(capsys, *source, 'dst.pth', '--to', 'timm',
                       '--num-classes', '7', '--cfg-options',
                       'model.backbone.mask_ratio=0.5')
    model = run(usage.strip())
    assert model.num_classes == 7
    name, kwargs = timm_arguments(usage.strip())
    words = [f'{key}={value}'.replace(' ', '') for key, value in
             kwargs.items()]
    lines = export(capsys, name, 'dst.pth', 'back.pth', '--to', 'mmpretrain',
                   '--timm-kwargs', *words)
    assert lines[1] == 'Not carried over: head.*.'
    state = read_tensor_file('source.pth').tensors
    for key, tensor in read_tensor_file('back.pth').tensors.items():
        assert torch.equal(tensor, state.pop(key))
    assert not state


def test_averaged_weights_are_named(source, capsys):
    state = torch.load('source.pth')['state_dict']
    torch.save(dict(state_dict=state, ema_state_dict=state), 'source.pth')
    lines = export(capsys, *source, 'dst.pth', '--to', 'mmseg')
    assert lines[0].endswith('tensors, averaged over training (EMA).')


@pytest.mark.parametrize('words, message', [
    (['there.pth', '--to', 'timm'], 'there.pth exists already'),
    (['dst.pth', '--to', 'timm', '--timm-kwargs', 'a=1'], "{'a': 1} is for"),
    (['dst.pth', '--to', 'transformers'], 'dst.pth looks like a file'),
    (['there', '--to', 'transformers'], 'there is a folder with other files'),
    (['dst.pth', '--to', 'onnx'], 'dst.pth must end in .onnx'),
    (['dst.onnx', '--to', 'torch-export'], 'dst.onnx must end in .pt2'),
    (['dst.pth', '--to', 'timm', '--cfg-options', 'model.backbone.type=X'],
     'model.backbone of config.py cannot be built'),
])
def test_errors_are_one_line(source, tmp_path, capsys, words, message):
    (tmp_path / 'there.pth').write_text('precious')
    (tmp_path / 'there').mkdir()
    (tmp_path / 'there' / 'mine').write_text('precious')
    error = refused(capsys, *source, *words)
    assert error.startswith(f'error: {message}')
    assert not (tmp_path / 'dst.pth').exists()
    assert (tmp_path / 'there.pth').read_text() == 'precious'


def test_a_folder_for_transformers(source, capsys):
    lines = export(capsys, *source, 'student', '--to', 'transformers')
    assert lines[2].startswith('Wrote student (0.1 MiB): ')
    assert lines[-4:] == [
        '  import transformers',
        "  model = transformers.AutoModel.from_pretrained('student')",
        '  processor = transformers.AutoImageProcessor.from_pretrained('
        "'student')",
        "  output = model(**processor(image.convert('RGB'), "
        "return_tensors='pt')).last_hidden_state"
    ]
    assert 'student exists already' in refused(
        capsys, *source, 'student', '--to', 'transformers')
    export(capsys, *source, 'student', '--to', 'transformers', '--force')


@pytest.mark.slow
def test_a_program(source, capsys):
    lines = export(capsys, *source, 'student.pt2', '--to', 'torch-export')
    assert lines[-2:] == [
        "  model = torch.export.load('student.pt2').module()",
        '  output = model(images)  # a dict: features, pooled, cls_token'
    ]


def test_force(source, tmp_path, capsys):
    (tmp_path / 'there.pth').write_text('no longer needed')
    export(capsys, *source, 'there.pth', '--to', 'timm', '--force')
    assert read_tensor_file('there.pth').tensors


def test_options_without_a_value(source, capsys):
    with pytest.raises(SystemExit) as stop:
        MAIN([*source, 'dst.pth', '--to', 'timm', '--cfg-options', 'nonsense'])
    assert stop.value.code == 2
    assert '--cfg-options takes KEY=VALUE pairs' in capsys.readouterr().err


@pytest.mark.slow
def test_as_a_command(source):
    command = [sys.executable, SCRIPT, *source, 'dst.pth', '--to', 'timm']
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith('  timm.create_model(')
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ''
    assert done.stderr.splitlines()[-1].startswith('error: dst.pth exists')
    assert 'Traceback' not in done.stderr
