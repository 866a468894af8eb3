import json
import runpy
import sys

import pytest

from tests.conftest import ROOT

SCRIPT = str(ROOT / 'tools' / 'benchmarks' / 'step_time.py')


def blocks(number, tokens, width):
    """Multiply-adds x 2 of transformer blocks, forward."""
    return number * 2 * (12 * tokens * width**2 + 2 * tokens**2 * width)


def test_counted_arithmetic_is_that_of_the_models():
    """B <- L at 224 px by hand: 50 of 197 tokens are visible."""
    script = runpy.run_path(SCRIPT)
    config = str(ROOT / 'configs' / 'dmae' / 'vit-b_dmae_in1k.py')
    # The backward pass costs twice the forward pass, except that no gradient
    # of the images is needed.
    student = 3 * blocks(12, 50, 768) + 2 * 2 * 196 * 768 * 768
    decoder = 3 * (
        blocks(8, 197, 512) + 2 * 50 * 768 * 512 + 2 * 197 * 512 * 768)
    teacher = blocks(18, 50, 1024) + 2 * 196 * 768 * 1024
    projector = 3 * 2 * 50 * 768 * 1024
    # 49 queries and 50 tokens that they look at: of a block's 12 matrices, q,
    # the output and the FFN's 8 for the former, k and v for the latter.
    light_decoder = 3 * (8 * 2 * (10 * 49 * 512**2 + 2 * 50 * 512**2 +
                                  2 * 49 * 50 * 512) + 2 * 50 * 768 * 512 +
                         2 * 49 * 512 * 768)
    rest_of_teacher = blocks(6, 50, 1024) + blocks(
        8, 197, 512) + 2 * 50 * 1024 * 512 + 2 * 197 * 512 * 768
    wanted = {
        'plain MAE': student + decoder,
        'DMAE': student + decoder + teacher + projector,
        'DMAE, whole teacher':
        student + decoder + teacher + projector + rest_of_teacher,
        'DMAE, light decoder': student + light_decoder + teacher + projector,
    }
    for variant, flops in wanted.items():
        counted = script['count_flops'](config, variant)
        assert counted == pytest.approx(flops, rel=0.01), variant


def test_it_measures_all_and_writes_them(toy_model, tmp_path,
                                               monkeypatch, capsys):
    config = tmp_path / 'toy.py'
    config.write_text(f"default_scope = 'mmpretrain'\nmodel = {toy_model!r}\n")
    monkeypatch.setattr(sys, 'argv', [
        SCRIPT, str(config), '--batch-size', '2', '--rounds', '2', '--device',
        'cpu', '--json', str(tmp_path / 'out.json')
    ])
    runpy.run_path(SCRIPT, run_name='__main__')
    result = json.loads((tmp_path / 'out.json').read_text())
    rows = result['results'][str(config)]
    assert list(rows) == [
        'plain MAE', 'DMAE', 'DMAE, whole teacher', 'DMAE, light decoder'
    ]
    assert rows['plain MAE']['ratio'] == 1
    assert all(row['seconds'] > 0 for row in rows.values())
    predicted = [row['predicted_ratio'] for row in rows.values()]
    assert 1 == predicted[0] < predicted[1] < predicted[2]
    assert predicted[3] < predicted[1]
    assert 'GFLOP/image' in capsys.readouterr().out
