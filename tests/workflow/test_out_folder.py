"""The folder of a result: whose it is, and what it remembers."""
import json
import os

import pytest
import torch

from dmae_mm.workflow.arguments import Arguments
from dmae_mm.workflow.out_folder import OutFolder
from tests.toys.distilled import write_checkpoint


@pytest.fixture
def arguments(tmp_path):
    (tmp_path / 'images').mkdir()

    def make(**changes):
        return Arguments.checked(**dict(
            dict(images=tmp_path / 'images', teacher='t', student='s',
                 out=tmp_path / 'out'), **changes))

    return make


def test_the_state_names_arguments_and_versions(arguments, tmp_path):
    folder = OutFolder(arguments())
    assert not (tmp_path / 'out').exists()  # until it begins
    folder.begin()
    state = json.loads((tmp_path / 'out' / 'distill.json').read_text())
    assert state['arguments'] == arguments().as_json()
    assert state['versions']['torch'] == torch.__version__.split('+')[0]
    assert state['versions'].keys() >= {'timm', 'mmengine', 'mmpretrain'}
    assert state['command'] == arguments().command()


def test_other_arguments_are_named_and_nothing_is_changed(
        arguments, tmp_path):
    OutFolder(arguments()).begin()
    OutFolder(arguments(student='typo'))  # nothing came of the first
    write_checkpoint(tmp_path / 'out', 1, 2)
    before = (tmp_path / 'out' / 'distill.json').read_bytes()
    with pytest.raises(ValueError) as error:
        OutFolder(arguments(student='other', epochs=3))
    said = str(error.value)
    assert ('holds the result of other arguments: --student was s and is '
            'other; --epochs was not given and is 3. Give another --out, or '
            'delete') in said and '\n' not in said
    assert (tmp_path / 'out' / 'distill.json').read_bytes() == before
    OutFolder(arguments(to='timm')).begin()  # that is no other training


def test_a_folder_of_something_else_is_refused(arguments, tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / '.hidden').touch()
    OutFolder(arguments())  # as good as empty
    (tmp_path / 'out' / 'thesis.tex').touch()
    with pytest.raises(ValueError, match='no result of distill.*thesis.tex'):
        OutFolder(arguments())
    (tmp_path / 'file').touch()
    with pytest.raises(ValueError, match='is a file. Give a folder'):
        OutFolder(arguments(out=tmp_path / 'file'))


@pytest.mark.parametrize('text', ['{', '[]', '{}', '{"arguments": 3}'])
def test_a_damaged_state_is_refused(arguments, tmp_path, text):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'distill.json').write_text(text)
    with pytest.raises(ValueError, match='distill.json is damaged.*Delete'):
        OutFolder(arguments())


@pytest.mark.parametrize('out', ['images', 'images/out', 'link/out'])
def test_a_result_among_the_images_is_refused(arguments, tmp_path, out):
    (tmp_path / 'images').mkdir(exist_ok=True)
    os.symlink(tmp_path / 'images', tmp_path / 'link')
    with pytest.raises(ValueError, match='lies inside IMAGES'):
        OutFolder(arguments(out=tmp_path / out))


def test_a_result_among_the_labelled_images_is_refused(arguments, tmp_path):
    (tmp_path / 'labels').mkdir()
    with pytest.raises(ValueError, match='lies inside --labels'):
        OutFolder(arguments(labels=tmp_path / 'labels',
                            out=tmp_path / 'labels' / 'out'))


def test_a_place_that_cannot_be_written_to(arguments, tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(OSError, match='file'):
        OutFolder(arguments(out=tmp_path / 'file' / 'out')).begin()


def test_a_finished_training_is_known_by_its_checkpoint(arguments, tmp_path):
    folder = OutFolder(arguments())
    folder.begin()
    assert folder.checkpoint is None and folder.trained() is None
    path = write_checkpoint(folder.path, 2, 3)
    assert folder.checkpoint == path and folder.trained() is None
    path = write_checkpoint(folder.path, 3, 3)
    assert folder.trained() == path
    moved = tmp_path / 'elsewhere'
    os.rename(folder.path, moved)
    assert OutFolder(arguments(out=moved)).trained() == f'{moved}/epoch_3.pth'


def test_what_was_made_is_known_while_it_is_there(arguments, tmp_path):
    folder = OutFolder(arguments())
    folder.begin()
    assert folder.made('export', checkpoint='epoch_3.pth') is None
    (tmp_path / 'out' / 'x.onnx').touch()
    folder.note_made('export', file='x.onnx', checkpoint='epoch_3.pth')
    again = OutFolder(arguments())
    assert again.made('export', checkpoint='epoch_3.pth')['file'] == 'x.onnx'
    assert again.made('export', checkpoint='epoch_4.pth') is None
    (tmp_path / 'out' / 'x.onnx').unlink()
    assert again.made('export', checkpoint='epoch_3.pth') is None


def test_a_run_killed_before_it_named_its_checkpoint(arguments):
    folder = OutFolder(arguments())
    folder.begin()
    path = write_checkpoint(folder.path, 1, 3)
    os.remove(f'{folder.path}/last_checkpoint')
    assert folder.checkpoint == folder.whole_checkpoint(print) == path


def test_a_damaged_checkpoint_is_said_and_not_used(arguments):
    folder, lines = OutFolder(arguments()), []
    folder.begin()
    first = write_checkpoint(folder.path, 1, 2)
    second = write_checkpoint(folder.path, 2, 2)
    assert folder.whole_checkpoint(lines.append) == second and not lines
    os.truncate(second, 100)
    assert folder.trained() is None
    assert folder.whole_checkpoint(lines.append) == first
    assert f'{second} is not used: it is cut off' in lines[0]
    os.truncate(first, 0)
    assert folder.whole_checkpoint(lines.append) is None
