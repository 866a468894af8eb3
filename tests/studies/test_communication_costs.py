"""The arithmetic of communication, by hand."""
import sys

import pytest

from tests.toys.models import ROOT

sys.path.insert(0, str(ROOT / 'studies'))

from communication_costs import build_parser, main, step_costs  # noqa: E402

# 60 GFLOP an image, 10 of them the teacher's; 100 million parameters.
GFLOP = dict(student=30., decoder=20., teacher=10., total=60.)
PARAMETERS = 100_000_000


def costs(gpus, *options):
    args = build_parser().parse_args(['config.py', *options])
    return step_costs(GFLOP, PARAMETERS, gpus, args)


def test_one_gpu_communicates_nothing():
    cost = costs(1)
    # 4096 images of 60 GFLOP at 100 TFLOPS; 256 fit at once.
    assert cost['compute'] == pytest.approx(4096 * 0.6)
    assert (cost['images'], cost['counts']) == (256, 16)
    assert cost['communicate'] == 0
    assert cost['hidden'] == cost['exposed'] == 1


def test_a_node():
    cost = costs(8)
    assert (cost['images'], cost['counts']) == (256, 2)
    # 2 * 7/8 of 400 MB at 200 GB/s; 16 buckets, 2 * 3 hops of 20 us.
    assert cost['communicate'] == pytest.approx(3.5 + 16 * 6 * 0.02)
    # The backward pass of 256 images, 85 ms, hides it.
    assert cost['hidden'] == 1
    assert cost['exposed'] == pytest.approx(307.2 / (307.2 + 5.42))


def test_many_nodes():
    cost = costs(512)
    assert (cost['images'], cost['counts']) == (8, 1)
    communicate = 2 * 511 / 512 * 400 / 25 + 16 * 18 * 0.02
    assert cost['communicate'] == pytest.approx(communicate)
    compute, backward = 8 * 0.6, 8 * 0.5 * 2 / 3
    assert cost['hidden'] == pytest.approx(compute /
                                           (compute + communicate - backward))
    assert cost['exposed'] == pytest.approx(compute / (compute + communicate))


def test_options_count():
    assert costs(8, '--images-per-gpu', '128')['counts'] == 4
    assert costs(8, '--tflops', '200')['compute'] == pytest.approx(153.6)
    slow = costs(16, '--node-bandwidth', '12.5', '--latency', '0.000001')
    assert slow['communicate'] == pytest.approx(2 * 15 / 16 * 32, rel=1e-4)
    assert costs(
        16, '--gpus-per-node', '16')['communicate'] < costs(16)['communicate']


@pytest.mark.parametrize('options, message', [
    (['none.py'], "There is no config 'none.py'"),
    ([__file__, '--tflops', '0'], '--tflops 0.0 must be above 0'),
])
def test_wrong_options_are_refused(options, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['communication_costs.py', *options])
    with pytest.raises(SystemExit, match='2'):
        main()
    assert message in capsys.readouterr().err
