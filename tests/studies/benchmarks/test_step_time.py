"""What the benchmarks compare, count and print."""
import copy
import json
import sys

import pytest
import torch

from studies.benchmarks import machine, step_time
from studies.benchmarks.measuring import in_turns
from studies.benchmarks.profiling import kind_of
from studies.benchmarks.variants import (OBJECTIVES, VARIANTS, build_all,
                                         count_flops, make_steps)
from tests.toys.models import ROOT

CONFIG = str(ROOT / 'configs' / 'dmae' / 'vit-b_dmae_in1k.py')


def blocks(number, tokens, width):
    """Multiply-adds x 2 of transformer blocks, forward."""
    return number * 2 * (12 * tokens * width**2 + 2 * tokens**2 * width)


def test_counted_arithmetic_is_that_of_the_models():
    """B <- L at 224 px by hand: 50 of 197 tokens are visible."""
    # The backward pass costs twice the forward pass, except that no gradient
    # of the images is needed.
    student = 3 * blocks(12, 50, 768) + 2 * 2 * 196 * 768 * 768
    decoder = 3 * (
        blocks(8, 197, 512) + 2 * 50 * 768 * 512 + 2 * 197 * 512 * 768)
    projector = 3 * 2 * 50 * 768 * 1024
    # The teacher embeds all patches, and so does the reference.
    teacher = blocks(18, 50, 1024) + 2 * 196 * 768 * 1024
    reference = (
        blocks(24, 50, 1024) + 2 * 196 * 768 * 1024 + blocks(8, 197, 512) +
        2 * 50 * 1024 * 512 + 2 * 197 * 512 * 768)
    # 49 queries and 50 tokens that they look at: of a block's 12 matrices, q,
    # the output and the FFN's 8 for the former, k and v for the latter.
    light_decoder = 3 * (8 * 2 * (10 * 49 * 512**2 + 2 * 50 * 512**2 +
                                  2 * 49 * 50 * 512) + 2 * 50 * 768 * 512 +
                         2 * 49 * 512 * 768)
    wanted = {
        'plain MAE': (student + decoder, 0),
        'DMAE': (student + decoder + projector, teacher),
        'as the reference': (student + decoder + projector, reference),
        'DMAE, light decoder': (student + light_decoder + projector, teacher),
    }
    # Without a decoder; the last block of both ends behind its qkv layer, but
    # the student's forward pass computes it all. Relations of q with k and of
    # v with v, which only the student's backward pass goes through.
    qkv = 2 * 3 * 197 * 768**2
    wanted['TinyMIM'] = (
        3 * (blocks(11, 197, 768) + qkv) + blocks(1, 197, 768) - qkv +
        2 * 2 * 196 * 768 * 768 + 2 * 2 * 197**2 * (3 * 768 + 1024),
        blocks(17, 197, 1024) + 2 * 196 * 768 * 1024 + 2 * 3 * 197 * 1024**2)
    for variant, (own, its) in wanted.items():
        counted = count_flops(CONFIG, VARIANTS[variant])
        assert counted == (pytest.approx(own, rel=0.01),
                           pytest.approx(its, rel=1e-3)), variant


def test_the_floor_by_hand():
    measured = dict(
        matrix_throughput=dict(float32=1e9, bfloat16=4e9),
        memory_bandwidth=1e8)
    for name, amp, seconds in (
        ('DMAE', False, 3 + 1 + 7),
        ('DMAE', True, 0.75 + 0.25 + 7),
        ('DMAE, bf16 teacher', False, 3 + 0.25 + 7),
    ):
        assert step_time.floor(VARIANTS[name], int(3e9), int(1e9), int(1e8),
                               amp, measured) == pytest.approx(seconds)


@pytest.fixture
def config(toy_model, tmp_path):
    path = tmp_path / 'toy.py'
    path.write_text(f"default_scope = 'mmpretrain'\nmodel = {toy_model!r}\n")
    return str(path)


def test_variants_compute_the_same(config, images):
    """The reference's way, and each option, from the same student."""
    names = [name for name, variant in VARIANTS.items()
             if 'compiled' not in name and 'light' not in name
             and 'all' not in name and not variant.objective]
    models = build_all(config, names, 'cpu')
    # The same weights where a teacher has the same part.
    weights = models['DMAE'].teacher.network.state_dict()
    for model in models.values():
        if model.teacher is not None:
            model.teacher.network.load_state_dict(weights, strict=False)
    losses = {}
    for name, model in models.items():
        torch.manual_seed(0)
        losses[name] = model.loss(images, None)
    assert set(losses.pop('plain MAE')) == {'loss_recon'}
    for name, loss in losses.items():
        assert loss['loss_recon'] == losses['DMAE']['loss_recon'], name
        torch.testing.assert_close(
            loss['loss_align_s2_t3'],
            losses['DMAE']['loss_align_s2_t3'],
            rtol=1e-2 if 'bf16' in name else 1e-6,
            atol=0)
    whole = models['as the reference'].teacher
    assert len(whole.network.layers) == 6
    assert len(models['DMAE'].teacher.network.layers) == 4
    assert models['DMAE'].backbone is models['plain MAE'].backbone


@pytest.mark.parametrize('name', OBJECTIVES)
def test_objectives_do_not_touch_the_shared_student(name, config, images):
    models = build_all(config, ['DMAE', name], 'cpu')
    steps = make_steps(models, images, False)
    for step in steps.values():
        step()
    assert models[name].backbone is not models['DMAE'].backbone
    assert [p.requires_grad for n, p in models['DMAE'].named_parameters()
            if 'pos_embed' not in n].count(False) == 0
    assert ('generate' in str(models[name].loss(images, None))) == (
        name == 'AMD')


def test_steps_change_the_weights_alike(config, images):
    """Sharing optimizer states must not mix variants up."""
    names = ['DMAE', 'DMAE, stock AdamW']
    models = build_all(config, names, 'cpu')
    steps = make_steps(models, images, False)
    model, name = models['DMAE'], 'neck.decoder_pred.weight'
    start = copy.deepcopy(model.state_dict())
    ends = []
    for step in steps.values():
        model.load_state_dict(start)
        torch.manual_seed(0)
        step()
        ends.append(model.state_dict()[name].clone())
    assert not torch.equal(ends[0], start[name])
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-7)
    assert all(p.grad is None for p in models['DMAE'].parameters())


@pytest.mark.slow
def test_it_measures_all_and_writes_them(config, tmp_path, monkeypatch,
                                         capsys):
    measured = dict(
        device='a toy', torch='1', memory_bandwidth=1e9,
        matrix_throughput=dict(float32=1e9, bfloat16=1e9))
    monkeypatch.setattr(step_time, 'capabilities',
                        lambda device, dtypes: measured)
    monkeypatch.setattr(sys, 'argv', [
        'step_time.py', config, '--batch-size', '2', '--rounds', '1',
        '--device', 'cpu', '--variants', 'as the reference', 'DMAE',
        'DMAE, light decoder', 'TinyMIM', '--profile', '--json',
        str(tmp_path / 'out.json')
    ])
    step_time.main()
    result = json.loads((tmp_path / 'out.json').read_text())
    assert result['machine'] == measured
    rows = result['results'][config]
    assert list(rows) == [
        'plain MAE', 'as the reference', 'DMAE', 'DMAE, light decoder',
        'TinyMIM'
    ]
    assert rows['plain MAE']['ratio'] == 1
    for row in rows.values():
        assert 0 < row['fastest'] <= row['seconds']
        assert row['reached'] == row['floor'] / row['fastest']
        assert row['peak_bytes'] is None  # only measured on a GPU
        assert sum(float(kind['share'][:-1]) for kind in row['kinds']
                   ) == pytest.approx(100, abs=0.5)
        assert len(row['operators']) == 12
    predicted = {name: row['predicted_ratio'] for name, row in rows.items()}
    assert 1 == predicted['plain MAE'] < predicted['DMAE']
    assert predicted['DMAE, light decoder'] < predicted['DMAE'] < predicted[
        'as the reference']
    output = capsys.readouterr().out
    assert 'GFLOP/image' in output and 'as the reference / DMAE' in output


def test_kinds_of_work():
    for name, kind in {
            'aten::mm': 'matrix products',
            'aten::addmm': 'matrix products',
            'sm90_xmma_gemm_bf16bf16': 'matrix products',
            'aten::_scaled_dot_product_flash_attention_for_cpu': 'attention',
            'aten::_fused_adamw_': 'optimizer',
            'aten::native_layer_norm_backward': 'norms',
            'aten::copy_': 'copies',
            'aten::gather': 'copies',
            'aten::gelu': 'element by element',
            'aten::add': 'element by element',
    }.items():
        assert kind_of(name) == kind, name


def test_the_machine_is_measured():
    """Toy sizes: that the numbers count what they say."""
    speed = machine.matrix_throughput('cpu', torch.float32, size=64)
    assert 1e6 < speed < 1e15
    assert 1e6 < machine.memory_bandwidth('cpu', num_bytes=2**16) < 1e15
    assert machine.name_of('cpu').startswith('CPU')


def test_turns():
    calls = []
    tasks = {name: lambda name=name: calls.append(name) or len(calls)
             for name in 'ab'}
    assert in_turns(tasks, 2, warm_up=1) == dict(a=[3, 5], b=[4, 6])
    assert ''.join(calls) == 'ababab'
