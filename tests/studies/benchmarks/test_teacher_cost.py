import json
import sys

from studies.benchmarks import teacher_cost


def vit_parameters(width, depth):
    """By hand: 16-pixel patches of 224 px, no norm behind the blocks."""
    stem = 768 * width + width + width + 197 * width  # patches, CLS, positions
    block = 12 * width**2 + 9 * width + 4 * width  # weights, biases, norms
    return stem + depth * block


def test_it_measures_and_writes_all(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [
        'teacher_cost.py', '--model', 'T', '--batch-size', '1', '--rounds',
        '2', '--device', 'cpu', '--json',
        str(tmp_path / 'out.json')
    ])
    teacher_cost.main()
    result = json.loads((tmp_path / 'out.json').read_text())
    assert (result['model'], result['batch_size']) == ('T', 1)
    rows = {
        (row['library'], row['blocks'], row['dtype']): row
        for row in result['rows']
    }
    assert len(rows) == len(result['rows']) == 2 * 2 * 2

    # ViT-T is 192 wide and has 12 blocks, of which 9 are three quarters.
    whole, truncated = vit_parameters(192, 12), vit_parameters(192, 9)
    for library in ('mmpretrain', 'timm'):
        for blocks, dtype, num_bytes in (
            ('whole', 'float32', 4 * whole),
            ('3/4', 'float32', 4 * truncated),
            ('whole', 'bfloat16', 2 * whole),
            ('3/4', 'bfloat16', 2 * truncated),
        ):
            row = rows[library, blocks, dtype]
            assert row['weight_bytes'] == num_bytes
            assert row['weight_ratio'] == num_bytes / (4 * whole)
            assert row['seconds'] > 0
            assert 0 < row['time_ratio_min'] <= row['time_ratio']
            assert row['time_ratio'] <= row['time_ratio_max']
            assert row['forward_bytes'] is None  # only measured on a GPU
        assert rows[library, 'whole', 'float32']['time_ratio_max'] == 1
    output = capsys.readouterr().out
    assert '49 of 196 patches' in output
    assert len(output.splitlines()) == 2 + 8
