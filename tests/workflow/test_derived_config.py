"""The config of a result: derived once, written for a person, kept."""
from types import SimpleNamespace

import pytest

from dmae_mm.host import read_config
from dmae_mm.launch import complete_config, static_problems
from dmae_mm.workflow import derived_config as module
from dmae_mm.workflow.arguments import Arguments
from dmae_mm.workflow.derived_config import derived_config
from dmae_mm.workflow.out_folder import OutFolder
from tests.toys.derived import toy_derive


@pytest.fixture
def folder(tmp_path, photos, monkeypatch):
    monkeypatch.setattr(module, 'derive', toy_derive)
    monkeypatch.setattr(module, 'choose_teachers', lambda names: [])
    monkeypatch.setattr(
        module, 'choose_student',
        lambda name: SimpleNamespace(name=name, at=lambda size: None))

    def make(**changes):
        return OutFolder(Arguments.checked(**dict(
            dict(images=photos, teacher='t', student='s',
                 out=tmp_path / 'out'), **changes)))

    return make


def test_the_file_tells_why_and_trains_as_it_is(folder, tmp_path):
    lines = []
    options = {'train_dataloader.batch_size': 3}
    cfg = derived_config(folder(cfg_options=options), lines.append)
    said = '\n'.join(lines)
    assert 'images            16' in said  # the survey
    assert '- the student is s, and so' in said
    assert 'Warning: a student larger' in said
    path = tmp_path / 'out' / 'config.py'
    assert lines[-1] == f'Config: {path}'
    text = path.read_text()
    head = text[:text.index('\n\n')].splitlines()
    # A path may be longer.
    assert all(line[0] == '#' and (len(line) < 80 or len(line.split()) == 2)
               for line in head)
    assert '--cfg-options train_dataloader.batch_size=3' in ' '.join(head)
    assert any('- the student is s' in line for line in head)
    # What tools/train.py does with it.
    again = read_config(str(path))
    assert complete_config(again, {}) == static_problems(again) == []
    assert again.to_dict() == cfg.to_dict()
    assert again.train_dataloader.batch_size == 3
    assert again.work_dir == str(tmp_path / 'out')
    # It was 0.001 for four images.
    assert again.optim_wrapper.optimizer.lr == 0.00075


def test_a_learning_rate_that_is_given_is_taken(folder):
    cfg = derived_config(folder(cfg_options={
        'train_dataloader.batch_size': 3, 'optim_wrapper.optimizer.lr': 0.5}),
        lambda line: None)
    assert cfg.optim_wrapper.optimizer.lr == 0.5


def test_a_mistake_leaves_nothing_behind(folder, tmp_path):
    for options in ({'train_dataloader.batch_size': 0}, {'lr': 1}):
        with pytest.raises(ValueError, match='^the config: .*(batch_size|lr)'):
            derived_config(folder(cfg_options=options), lambda line: None)
    with pytest.raises(ValueError, match='img_size'):
        derived_config(folder(size=48), lambda line: None)
    assert not (tmp_path / 'out').exists()


def test_a_config_that_a_person_changed_is_kept(folder, tmp_path):
    path, lines = tmp_path / 'out' / 'config.py', []
    derived_config(folder(), lines.append)
    # With other arguments, nothing is lost: it can be derived again.
    assert derived_config(folder(epochs=5),
                          lines.append).train_cfg.max_epochs == 5
    path.write_text(path.read_text() + '\ntrain_cfg.update(max_epochs=7)\n')
    lines.clear()
    assert derived_config(folder(epochs=5),
                          lines.append).train_cfg.max_epochs == 7
    assert lines == [f'{path} was changed after it was derived: it is taken '
                     'as it is.']
    with pytest.raises(ValueError, match='the result of other arguments'):
        folder(epochs=6)


def test_what_has_begun_goes_on_as_it_was(folder, tmp_path, monkeypatch):
    """Images are not looked at again."""
    first = derived_config(folder(), lambda line: None)
    (tmp_path / 'out' / 'epoch_1.pth').touch()
    (tmp_path / 'out' / 'last_checkpoint').write_text('epoch_1.pth')
    monkeypatch.setattr(module, 'survey_images', None)
    lines = []
    again = derived_config(folder(), lines.append)
    assert again.to_dict() == first.to_dict() and not lines
