"""Options of the command line that would have no effect are refused."""
import argparse
import copy
import shlex

import pytest
from mmengine.config import Config

from dmae_mm.host import ConfigOptions
from dmae_mm.launch import complete_config
from dmae_mm.launch.complete_config import unknown_arguments

PIPELINE = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=32)]


def written(**variables):
    cfg = dict(
        model=dict(type='X'), train_cfg=dict(max_epochs=2),
        optim_wrapper=dict(accumulative_counts=4),
        auto_scale_lr=dict(base_batch_size=8, enable=False),
        train_dataloader=dict(batch_size=2, dataset=dict(
            data_root='images', pipeline=copy.deepcopy(PIPELINE))))
    return Config(dict(cfg, **variables))


@pytest.mark.parametrize('variables, option, value, instead', [
    (dict(train_pipeline=PIPELINE), 'train_pipeline.1.scale', 96,
     'train_dataloader.dataset.pipeline.1.scale=96'),
    (dict(resize=PIPELINE[1]), 'resize.scale', [9, 6],
     'train_dataloader.dataset.pipeline.1.scale=...'),
    (dict(data_root='images'), 'data_root', 'other',
     'train_dataloader.dataset.data_root=other'),
    (dict(max_epochs=2), 'max_epochs', 9, 'train_cfg.max_epochs=9'),
])
def test_variables_that_were_copied(variables, option, value, instead):
    problem, = complete_config(written(**variables), {option: value})
    assert problem.startswith(f'--cfg-options {option}: nothing reads ')
    assert problem.endswith(f'Change the copy: {instead}')


def test_all_copies_are_named():
    cfg = written(test_pipeline=PIPELINE, val_dataloader=dict(
        dataset=dict(dataset=dict(pipeline=copy.deepcopy(PIPELINE)))))
    problem, = complete_config(cfg, {'test_pipeline.1.scale': 96})
    assert problem.endswith(
        ': train_dataloader.dataset.pipeline.1.scale=96 and '
        'val_dataloader.dataset.dataset.pipeline.1.scale=96')


@pytest.mark.parametrize('variables, option', [
    (dict(my_limit=2), 'my_limit'),  # equal to numbers of the config
    (dict(my_root='images'), 'my_root'),
    (dict(tta_pipeline=[dict(type='Y')]), 'tta_pipeline.0.type'),
    (dict(my_options=dict()), 'my_options.a'),
    (dict(), 'train_dataloader.dataset.pipeline.1.scale'),
    (dict(), 'model.type'),
])
def test_what_may_have_a_reader_is_changed(variables, option):
    cfg = written(**variables)
    assert complete_config(cfg, {option: 'new'}) == []
    assert repr(cfg).count("'new'") == 1


@pytest.mark.parametrize('option, value, full', [
    ('lr', 1e-3, 'optim_wrapper.optimizer.lr=0.001'),
    ('learning_rate', 1e-3, 'optim_wrapper.optimizer.lr=0.001'),
    ('optimizer.lr', 1e-3, 'optim_wrapper.optimizer.lr=0.001'),
    ('data', 'x', 'train_dataloader.dataset.data_root=x'),
    ('data_root', 'x', 'train_dataloader.dataset.data_root=x'),
    ('batch_size', 4, 'train_dataloader.batch_size=4, '
     'val_dataloader.batch_size=4'),
    ('scale', [9, 6], 'train_dataloader.dataset.pipeline.1.scale=...'),
    ('max_epochs', 3, 'train_cfg.max_epochs=3. Instead of '
     'train_cfg.max_epochs=3, --epochs 3 changes the schedule of the learning '
     'rate as well'),
    ('max_epoch', 3, 'train_cfg.max_epochs=3. Instead of '
     'train_cfg.max_epochs=3, --epochs 3 changes the schedule of the learning '
     'rate as well'),
])
def test_options_without_their_section(option, value, full):
    cfg = written(val_dataloader=dict(batch_size=2))
    cfg.optim_wrapper.optimizer = dict(lr=0.1)
    problem, = complete_config(cfg, {option: value})
    assert problem == (
        f'--cfg-options {option}: there is no section '
        f'{option.split(".")[0]!r}. Give the full name: {full}')


@pytest.mark.parametrize('arguments, told', [
    (['--data', 'a b'], "train_dataloader.dataset.data_root='a b'"),
    (['--data-root=x'], 'train_dataloader.dataset.data_root=x'),
    (['--batch-size', '4', '--data', 'x'],
     'train_dataloader.batch_size=4 train_dataloader.dataset.data_root=x'),
    (['batch_size=4'], 'train_dataloader.batch_size=4'),
    (['{folder}'], 'train_dataloader.dataset.data_root={folder}'),
    (['--batch-size'], 'train_dataloader.batch_size=VALUE'),
    (['--max-epochs', '3'], 'train_cfg.max_epochs=3. Instead of '
     'train_cfg.max_epochs=3, --epochs 3 changes the schedule of the learning '
     'rate as well'),
])
def test_arguments_that_are_options_of_the_config(arguments, told, tmp_path):
    written().dump(tmp_path / 'cfg.py')
    arguments = [each.format(folder=tmp_path) for each in arguments]
    said = unknown_arguments(arguments, str(tmp_path / 'cfg.py'))
    assert said == (f'unrecognized arguments: {shlex.join(arguments)}. Give '
                    f'--cfg-options {told.format(folder=tmp_path)}')


@pytest.mark.parametrize('arguments, config', [
    (['--what-is-it', '3'], 'cfg.py'), (['--data', 'x'], 'missing.py'),
    (['word'], 'cfg.py')])
def test_arguments_that_are_not(arguments, config, tmp_path):
    written().dump(tmp_path / 'cfg.py')
    assert unknown_arguments(arguments, str(tmp_path / config)) == (
        f'unrecognized arguments: {shlex.join(arguments)}')


def parse(*texts):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions)
    return parser.parse_args(['--cfg-options', *texts]).cfg_options


def test_options_are_read_as_mmengine_reads_them():
    assert parse('a.b=1', 'c=[x,2.5]', 'd=f/{e}') == {
        'a.b': 1, 'c': ['x', 2.5], 'd': 'f/{e}'}


@pytest.mark.parametrize('text, messages', [
    ("m=dict(type='A',b=1)", ['m: a dict cannot be given as one value',
                              'as in m.type=NAME m.KEY=VALUE']),
    ('m={a:1}', ['m: a dict cannot be given as one value']),
    ("m=[3, {'a': 1}]", ['m: a dict cannot be given as one value']),
    ('epochs', ['takes KEY=VALUE pairs', "'epochs' is none"]),
    ('a=[1,2', ['KEY=[a,b] for lists', "'a=[1,2' is none"]),
    ('a=f(1,2)', ["'a=f(1,2)' is none"]),
])
def test_options_that_cannot_be_read(text, messages, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(text)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert 'error: --cfg-options ' in said
    assert all(message in said for message in messages)
