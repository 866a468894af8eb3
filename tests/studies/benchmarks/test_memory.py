import json
import sys

import pytest
import torch

from studies.benchmarks import memory


def test_the_peak_of_a_known_step():
    """4 MiB, then 8 on top, of which 4 are freed before another 2."""

    def step():
        first = torch.empty(2**20)
        second = first + 1
        third = second * 2
        del second
        return first, third, torch.empty(2**19)

    step()
    assert memory.peak_on_cpu(step) == pytest.approx(12 * 2**20, abs=64)


def test_what_autograd_saves_of_a_known_step():
    """x @ w saves both, exp its result; w and x are standing."""
    x, w = torch.randn(32, 64), torch.randn(64, 16, requires_grad=True)

    def step():
        ((x @ w).exp() * x[:, :16]).sum().backward()

    # The product with x saves exp's result again and a view of x.
    assert memory.saved_bytes(step, [x, w]) == 4 * 32 * 16
    assert memory.saved_bytes(step, [w]) == 4 * (32 * 16 + 32 * 64)


def test_it_measures_all_and_writes_them(toy_model, tmp_path, monkeypatch,
                                         capsys):
    config = tmp_path / 'toy.py'
    config.write_text(f"default_scope = 'mmpretrain'\nmodel = {toy_model!r}\n")
    monkeypatch.setattr(sys, 'argv', [
        'memory.py', str(config), '--batch-size', '2', '--device', 'cpu',
        '--variants', 'plain MAE', 'DMAE', 'DMAE, bf16 teacher',
        'DMAE, light decoder', 'G2SD', '--json', str(tmp_path / 'out.json')
    ])
    memory.main()
    result = json.loads((tmp_path / 'out.json').read_text())
    rows = result['results'][str(config)]
    assert len(rows) == 6  # with the reference's
    for name, row in rows.items():
        standing = row['weights'] + row['teacher'] + row['optimizer']
        assert row['floor'] == standing + max(row['gradients'],
                                              row['activations'])
        assert row['peak'] >= row['floor'] * 0.99, name
        assert row['optimizer'] == 2 * row['gradients']
    assert rows['plain MAE']['teacher'] == 0
    # Two of six blocks, the norm and the decoder are left out.
    assert rows['DMAE']['teacher'] < rows['as the reference']['teacher']
    assert rows['DMAE, bf16 teacher']['teacher'] == pytest.approx(
        rows['DMAE']['teacher'] / 2, rel=0.01)
    assert rows['DMAE, light decoder']['activations'] < rows['DMAE'][
        'activations']
    assert rows['as the reference']['ratio'] == 1
    assert 'peak / reference' in capsys.readouterr().out
