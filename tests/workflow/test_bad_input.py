"""What cannot work ends with one message that says what to do, in seconds,
and leaves nothing behind."""
import shutil
from collections import namedtuple

import pytest
import torch

from dmae_mm.workflow.distill_command import main
from tests.toys.folders import write_images
from tests.toys.odd_files import broken_files

STUDENT = 'vit_tiny_patch16_224'
MiB = namedtuple('MiB', 'free')


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Run the command line, which must refuse; what it said at last."""
    monkeypatch.chdir(tmp_path)
    # What is large is never read.
    monkeypatch.setattr('dmae_mm.workflow.distill.train', None)
    monkeypatch.setattr(torch, 'load', None)
    (tmp_path / 'images').mkdir()

    def run(*options, teacher='vit_tiny_patch16_224', student=STUDENT):
        before = sorted(tmp_path.rglob('*'))
        with pytest.raises(SystemExit) as error:
            main(['images', '--teacher', teacher, '--student', student,
                  *options])
        said = str(error.value.code)
        assert said.startswith('error: ') and '\n' not in said, said
        assert sorted(tmp_path.rglob('*')) == before
        return said

    return run


@pytest.fixture
def with_images(tmp_path, refused):
    write_images(tmp_path, *(f'images/{i}.png' for i in range(12)))


def test_no_images(refused, tmp_path):
    said = refused()
    assert 'There are no images (.jpg' in said and "'" in said
    (tmp_path / 'images' / 'a.heic').write_bytes(b'heic')
    assert 'Found 1 .heic' in refused()


def test_only_images_that_cannot_be_read(refused, tmp_path):
    for name, content in broken_files().items():
        (tmp_path / 'images' / name).write_bytes(content)
    assert 'can be used: bomb.jpg (' in refused()


def test_names_are_checked_before_images_are_opened(refused, monkeypatch):
    monkeypatch.setattr('dmae_mm.workflow.derived_config.survey_images', None)
    assert 'no-such-teacher' in refused(teacher='no-such-teacher')
    assert 'no-such-student' in refused(student='no-such-student')
    assert '--size 100' in refused('--size', '100')


def test_no_network(refused, monkeypatch, tmp_path):
    monkeypatch.setattr('dmae_mm.models.timm_vits._hub_answers', lambda: False)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE',
                        str(tmp_path))
    monkeypatch.setattr('dmae_mm.workflow.derived_config.survey_images', None)
    said = refused(teacher='vit_tiny_patch16_224')
    assert 'cannot be fetched' in said
    assert 'on a command line as NAME=FILE' in said


def test_unknown_teacher(refused, with_images):
    said = refused(teacher='vit_base_patch14_dinov2.lvd142n')
    assert 'vit_base_patch14_dinov2.lvd142m' in said
    assert "there is no file or folder 'x.pth'" in refused(
        teacher='vit_tiny_patch16_224=x.pth')


def test_unknown_student(refused, with_images):
    said = refused(student='vit_tiny_patch16_22')
    assert 'vit_tiny_patch16_224' in said


def test_a_size_that_no_patches_fit(refused, with_images):
    said = refused('--size', '100')
    assert 'The nearest that fits: 96.' in said


def test_too_few_images(refused, tmp_path):
    write_images(tmp_path, 'images/1.png', 'images/2.png')
    assert 'holds 2 images' in refused()


def test_no_space_for_a_checkpoint(refused, with_images, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: MiB(2**20))
    said = refused('--size', '64')
    assert 'checkpoints of about' in said and 'Give --out on another' in said


def test_a_result_that_would_overwrite_another(refused, with_images,
                                               tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'epoch_1.pth').touch()
    assert 'not empty: it holds epoch_1.pth. Give a new folder' in refused(
        '--out', 'out')


def test_an_option_of_the_config_that_nothing_reads(refused, with_images):
    said = refused('--size', '64', '--cfg-options', 'lr=1')
    assert 'optim_wrapper.optimizer.lr=1' in said


def test_labels_that_are_none(refused, with_images):
    assert 'have no labels' in refused('--labels', 'images')


def test_a_student_larger_than_its_teacher_is_a_warning(
        refused, with_images, capsys):
    refused('--size', '64', '--cfg-options', 'lr=1',
            student='vit_small_patch16_224')
    assert 'Warning: the student has' in capsys.readouterr().out
