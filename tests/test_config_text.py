import re

import pytest
from mmengine.config import Config

from dmae_mm.config_text import differences, flat_config
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
