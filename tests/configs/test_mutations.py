"""A damaged config trains a step or is refused, and the option is named.

Hypothesis damages a valid config of toy size in one place. What then happens
is either a step of training, or a message that names the damaged option: its
key, or, for a section, one of the keys in it.
"""
import copy
import math
import os
import signal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from dmae_mm.launch import complete_config, explain, static_problems
from dmae_mm.launch.start import build_runner
from tests.toys.runs import config

LIMIT = 120  # seconds for a start, on a busy machine
# Without the crop, images have another size, which the backbone notices: it is
# what the message names.
NAMED_ELSEWHERE = {
    'train_dataloader.dataset.pipeline.2: delete': 'model.backbone'
}


class Trained(Exception):
    """A step has been made."""


class TimeOut(BaseException):
    pass


class StopHook(Hook):
    priority = 'LOWEST'

    def after_train_iter(self, *args, **kwargs):
        raise Trained


def options(value, option=()):
    """The path of each key and list entry."""
    items = value.items() if isinstance(value, dict) else (
        enumerate(value) if isinstance(value, (list, tuple)) else ())
    for key, item in items:
        yield (*option, key)
        yield from options(item, (*option, key))


def get(cfg, option):
    for key in option:
        cfg = cfg[key]
    return cfg


VALUES = dict(
    none=None, zero=0, negative=-1, huge=10**9, huge_float=1e30,
    nan=math.nan, text='text', number='8', flag=True, one_list=[1],
    empty_list=[], empty_dict={}, fraction=0.3)
HOWS = ['delete', 'misspell', 'swap', 'number_as_text', 'in_list', *VALUES]


def mutate(cfg, option, how, other):
    """Damage one place.

    Returns:
        str | None: What was done; None if it cannot be done here.
    """
    parent, key = get(cfg, option[:-1]), option[-1]
    if isinstance(parent, tuple):
        return None
    value = parent[key]
    if how == 'delete':
        del parent[key]
    elif how == 'misspell':
        if not isinstance(key, str):
            return None
        parent[f'{key[:-1]}'] = parent.pop(key)
    elif how == 'swap':  # with another one of the same section
        keys = [k for k in (parent if isinstance(parent, dict) else range(
            len(parent))) if k != key]
        if not keys:
            return None
        second = keys[other % len(keys)]
        parent[key], parent[second] = parent[second], value
    elif how == 'number_as_text':
        if type(value) not in (int, float):
            return None
        parent[key] = f'{value}!'
    elif how == 'in_list':
        parent[key] = [value]
    else:
        parent[key] = copy.deepcopy(VALUES[how])
    return f'{".".join(map(str, option))}: {how}'


def names_of(original, option, how, other):
    """The words of which a refusal has to contain one."""
    key = [key for key in option if isinstance(key, str)][-1]
    if how == 'misspell':
        return {key[:-1]}
    words = {key}
    value, parent = get(original, option), get(original, option[:-1])
    if how == 'swap' and isinstance(parent, dict):
        others = [name for name in parent if name != key]
        words.add(others[other % len(others)])
    if isinstance(value, dict):  # what is missing then are the keys in it
        words |= {str(name) for name in value if name != 'type'}
    return words


def start(cfg):
    """What a start of tools/train.py comes to.

    Returns:
        str: '' if a step was trained, or the message.
    """
    try:
        problems = complete_config(cfg, {})
        problems = problems or static_problems(cfg)
        if problems:
            return '\n'.join(problems)
        runner = build_runner(cfg)
        runner.register_hook(StopHook())
        runner.train()
    except Trained:
        return ''
    except Exception as error:
        return explain(error, cfg)
    return ''


def _too_slow(*_):
    raise TimeOut


@pytest.fixture(scope='module')
def valid(photos, tmp_path_factory):  # noqa: F811
    cfg = config(photos, tmp_path_factory.mktemp('mutations'), 1)
    cfg.custom_imports = dict(imports=['dmae_mm'], allow_failed_imports=False)
    cfg.default_hooks.runtime_info = dict(type='FiniteLossHook', max_skips=0)
    cfg.log_level = 'CRITICAL'
    assert start(copy.deepcopy(cfg)) == ''
    return cfg


def check_one(valid, option, how, other, count):
    cfg = valid.to_dict()
    done = mutate(cfg, option, how, other)
    if done is None:
        return None
    cfg = Config(cfg)
    cfg.experiment_name = f'mutation-{os.getpid()}-{count}'
    before = signal.signal(signal.SIGALRM, _too_slow)
    signal.alarm(LIMIT)
    try:
        message = start(cfg)
    except TimeOut:
        return done, 'HANGS', ''
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    words = names_of(valid.to_dict(), option, how, other)
    if done in NAMED_ELSEWHERE:
        words.add(NAMED_ELSEWHERE[done])
    if message and not any(word in message for word in words):
        return done, f'does not name {sorted(words)}', message
    return done, '', message


def run_mutations(valid, examples, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # It asks compilers for their versions.
    monkeypatch.setattr(Runner, '_log_env', lambda *args: None)
    places = list(options({k: v for k, v in valid.to_dict().items()
                           if k not in ('work_dir', 'log_level')}))
    bad, done = [], []

    @settings(
        max_examples=examples, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(places), st.sampled_from(HOWS),
           st.integers(0, 9))
    def mutation(option, how, other):
        result = check_one(valid, option, how, other, len(done))
        if result:
            done.append(result)
            if result[1]:
                bad.append(result)

    mutation()
    return done, bad


def test_some_mutations(valid, tmp_path, monkeypatch):
    done, bad = run_mutations(valid, 60, tmp_path, monkeypatch)
    assert len(done) > 40
    refused = [line for line in done if line[-1]]
    assert 0 < len(refused) < len(done)  # some of each kind
    assert not bad, '\n'.join(': '.join(line) for line in bad)


@pytest.mark.slow
def test_500_mutations(valid, tmp_path, monkeypatch):
    done, bad = run_mutations(valid, 600, tmp_path, monkeypatch)
    assert len(done) >= 500
    assert not bad, '\n'.join(': '.join(line) for line in bad)
