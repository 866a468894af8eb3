"""What a person asks of `distill`: checked, compared, written down."""
import shlex

import pytest

from dmae_mm.workflow.arguments import Arguments
from dmae_mm.workflow.distill_command import build_parser


def arguments(folder, **changes):
    return Arguments.checked(**dict(
        dict(images=folder, teacher='vit_base_patch16_224',
             student='vit_tiny_patch16_224'), **changes))


@pytest.mark.parametrize('change, said', [
    (dict(images='nowhere'), 'IMAGES: there is no folder nowhere.'),
    (dict(images=__file__), f'IMAGES: {__file__} is a file.'),
    (dict(labels='nowhere'), '--labels: there is no folder nowhere.'),
    (dict(size=0), '--size 0 is no number of pixels: an int of at least 1'),
    (dict(size=224.), '--size 224.0 is no number'),
    (dict(epochs=-1), '--epochs -1 is no number of epochs'),
    (dict(teacher=[]), '--teacher was given no name'),
    (dict(student=''), "--student '' is no name"),
    (dict(to='onx'), '--to onx does not exist. Choose from timm'),
])
def test_illegal_values(tmp_path, change, said):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        arguments(tmp_path, **change)
    assert said in str(error.value) and '\n' not in str(error.value)


def test_a_close_format_is_named(tmp_path):
    with pytest.raises(ValueError, match='Did you mean mmseg?'):
        arguments(tmp_path, to=['mseg'])


def test_out_is_chosen_by_images_teachers_and_student(tmp_path):
    chosen = arguments(
        tmp_path / '.', teacher=['a/b.tag=/x/y.pth', '/hub/my model/'])
    assert chosen.out == ('work_dirs/distill/' + tmp_path.name +
                          '-vit_tiny_patch16_224-b.tag-my_model')
    assert arguments(tmp_path, quick=True).out.endswith('-quick')


def test_only_what_the_training_depends_on_differs(tmp_path):
    first = arguments(tmp_path, labels=tmp_path, to='timm')
    earlier = first.as_json()
    assert first.differences(earlier) == []
    assert arguments(tmp_path).differences(earlier) == []  # other labels, to
    other = arguments(tmp_path, teacher=['x', 'y'], size=32, quick=True,
                      cfg_options={'train_dataloader.batch_size': 2})
    assert other.differences(earlier) == [
        '--teacher was vit_base_patch16_224 and is x, y',
        '--size was not given and is 32', '--quick was not given and is given',
        "--cfg-options was not given and is {'train_dataloader.batch_size': "
        '2}'
    ]


def test_the_command_asks_for_the_same(tmp_path):
    """Given to the parser, it gives the same arguments."""
    folder = tmp_path / 'my images'
    folder.mkdir()
    given = arguments(
        folder, teacher=['one', 'two=a b.pth'], size=64, epochs=3,
        out=tmp_path / 'out', labels=folder, to=['timm', 'mmseg'], quick=True,
        cfg_options={'a.b': 1e-4, 'c': [1, 2], 'd': 'x', 'e': True})
    words = shlex.split(given.command())
    assert words[:4] == ['python', '-m', 'dmae_mm', 'distill']
    parsed = build_parser().parse_args(words[4:])
    assert Arguments.checked(**vars(parsed)) == given


def test_the_parser_asks_for_teacher_and_student(capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args(['images'])
    assert '--teacher, --student' in capsys.readouterr().err


def test_the_help_has_an_example(capsys):
    with pytest.raises(SystemExit):
        build_parser('distill').parse_args(['--help'])
    said = capsys.readouterr().out
    assert 'python tools/distill.py photos --teacher' in said
    # mim passes its number of GPUs on to a script whose help has it.
    assert '--gpus' not in said
    assert max(map(len, said.splitlines())) < 100
