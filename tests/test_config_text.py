import re

import pytest
from mmengine.config import Config

from dmae_mm.config_text import (differences, flat_config, plain_config,
                                 refuse_repeated_keys)
from dmae_mm.host import read_config
from tests.toys.models import ROOT


def value(config, path):
    """Of a path without labels."""
    for key in path.split('.'):
        config = config[key]
    return config


def test_configs_are_read_without_being_executed(tmp_path):
    for name in ('dmae/vit-s_dmae_in1k.py',
                 'benchmarks/vit-s_finetune_in1k.py',
                 'digits/vit-student_dmae_digits.py'):
        cfg = Config.fromfile(ROOT / 'configs' / name)
        flat = flat_config(cfg.pretty_text)
        assert {path.split('.')[0].split('[')[0] for path in flat} == set(cfg)
        plain = [path for path in flat if not re.search(r'\[|\.\.', path)
                 and f'{path}[' not in '|'.join(flat)]
        assert len(plain) > 30
        for path in plain:
            found = eval(flat[path], {'dict': dict})
            assert found == value(cfg, path), path
    odd = Config(dict(a={'x-y': dict(b=1), 'n': [dict(c=(1, 2))]}))
    assert flat_config(odd.pretty_text) == {
        'a.x-y.b': '1', 'a.n': 'dict', 'a.n[dict].c': '(1, 2)'}
    evil = f'a = __import__("pathlib").Path("{tmp_path}/made").touch()\nb = 1'
    assert flat_config(evil)['b'] == '1'
    assert not (tmp_path / 'made').exists()
    with pytest.raises(SyntaxError):
        flat_config('model = dict(')


def test_configs_become_plain_values(tmp_path):
    cfg = Config.fromfile(ROOT / 'configs' / 'dmae' / 'vit-s_dmae_in1k.py')
    assert plain_config(cfg.pretty_text) == cfg.to_dict()
    odd = dict(a={'x-y': dict(b=(1, [2.5])), 'n': [dict(c=None)]}, e={})
    assert plain_config(Config(odd).pretty_text) == odd
    evil = (f'a = __import__("pathlib").Path("{tmp_path}/made").touch()\n'
            'b = dict(c=1, d=open, e=[dict(f=print())])')
    assert plain_config(evil) == dict(b=dict(c=1, e=[{}]))
    assert not (tmp_path / 'made').exists()
    with pytest.raises(SyntaxError):
        plain_config('model = dict(')


def test_only_what_differs_is_listed():
    steps = "dict(type='Load'), dict(type='Flip', prob=0.5), dict(type='Flip')"
    a = flat_config(f"lr = 1\nsame = [1, 2]\npipeline = [{steps}]\n"
                    "work_dir = 'a'")
    b = flat_config("lr = 2\nsame = [1, 2]\nmore = dict(x=None)\n"
                    f"pipeline = [dict(type='Seed'), {steps}]")
    assert a['pipeline[Flip#2].type'] == "'Flip'"
    assert differences([a, b, None]) == {
        'lr': ['1', '2', '?'],
        'more.x': ['(none)', 'None', '?'],
        'pipeline': ['Load, Flip, Flip#2', 'Seed, Load, Flip, Flip#2', '?'],
        'pipeline[Seed].type': ['(none)', "'Seed'", '?']}
    assert differences([a, a]) == differences([a]) == {}


class TestRepeatedKeys:
    """Two teachers of one name, say: Python would keep the last."""

    def refusal(self, path):
        with pytest.raises(ValueError) as error:
            read_config(str(path))
        return str(error.value)

    def test_key_file_and_lines_are_named(self, tmp_path):
        path = tmp_path / 'two.py'
        path.write_text("model = dict(teachers={\n    'a': dict(x=1),\n"
                        "    'b': 2,\n    'a': dict(x=3)})\n")
        assert self.refusal(path) == (
            f"{path}, line 4: the key 'a' is already in line 2 of the same "
            'dict, and Python would keep the last value only. Rename or '
            'remove one of them.')

    def test_in_a_base(self, tmp_path):
        (tmp_path / 'sub').mkdir()
        (tmp_path / 'base.py').write_text('a = [{1: 2, 1: 3}]')
        (tmp_path / 'middle.py').write_text("_base_ = 'base.py'")
        path = tmp_path / 'sub' / 'top.py'
        path.write_text(
            "_base_ = ['mmpretrain::_base_/default_runtime.py', "
            "'../middle.py']")
        assert 'base.py, line 1: the key 1 is' in self.refusal(path)

    def test_arguments_are_named_by_python_with_the_file(self, tmp_path):
        path = tmp_path / 'two.py'
        path.write_text('\nmodel = dict(a=1, a=2)\n')
        assert re.search(
            f'^The config {path} cannot be read: SyntaxError: keyword '
            r'argument repeated: a \(two.py, line 2\)', self.refusal(path))

    def test_what_is_legal(self, tmp_path):
        path = tmp_path / 'legal.py'
        path.write_text("b = {}\nx = {'a': {'a': 1}, 'b': [{'a': 1}], **b, "
                        "**b}\ny = {'a': 2}\n")
        assert read_config(str(path)).x.a.a == 1
        for path in (ROOT / 'configs').rglob('*.py'):
            refuse_repeated_keys(str(path))
