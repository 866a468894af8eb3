import json

import pytest
from mmengine.config import Config

from dmae_mm.evaluation.report.config_text import (differences, flatten,
                                                 read_config)
from tests.conftest import ROOT


def test_configs_are_read_without_being_executed(tmp_path):
    for name in ('dmae/vit-s_dmae_in1k.py',
                 'benchmarks/vit-s_finetune_in1k.py',
                 'digits/vit-student_dmae_digits.py'):
        cfg = Config.fromfile(ROOT / 'configs' / name)
        plain = json.loads(json.dumps(cfg.to_dict()))  # tuples become lists
        assert read_config(cfg.pretty_text) == plain, name
    odd = Config(dict(a={'x-y': dict(b=1), 'n': [dict(c=(1, 2))]}))
    assert read_config(odd.pretty_text) == {
        'a': {'x-y': {'b': 1}, 'n': [{'c': [1, 2]}]}}
    evil = f'a = __import__("pathlib").Path("{tmp_path}/made").touch()\nb = 1'
    assert read_config(evil)['b'] == 1
    assert not (tmp_path / 'made').exists()
    with pytest.raises(SyntaxError):
        read_config('model = dict(')


def test_only_what_differs_is_listed():
    steps = [dict(type='Load'), dict(type='Flip', prob=0.5), dict(type='Flip')]
    a = dict(lr=1, same=[1, 2], pipeline=steps, work_dir='a')
    b = dict(lr=2, same=[1, 2], work_dir='b', more=dict(x=None),
             pipeline=[dict(type='Seed'), *steps])
    assert flatten(a)['pipeline[Flip#2].type'] == "'Flip'"
    assert differences([a, b, None]) == {
        'lr': ['1', '2', '?'],
        'more.x': ['(none)', 'None', '?'],
        'pipeline': ['Load, Flip, Flip#2', 'Seed, Load, Flip, Flip#2', '?'],
        'pipeline[Seed].type': ['(none)', "'Seed'", '?']}
    assert differences([a, a]) == differences([a]) == {}
