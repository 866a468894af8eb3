import base64

from hypothesis import given
from hypothesis import strategies as st

from dmae_mm.evaluation.report.pictures import embed_pictures, spread
from tests.evaluation.report.work_dirs import write_png


@given(st.lists(st.integers(), unique=True))
def test_steps_are_spread(steps):
    steps.sort()
    order = spread(steps)
    assert sorted(order) == steps
    assert order[:2] == [*steps[-1:], *steps[:1]][:len(steps)]


def test_spread_by_hand():
    assert spread([10, 20, 30, 40, 50]) == [50, 10, 30, 20, 40]


def test_pictures_within_a_size(tmp_path):
    run_of = {'a': {}, 'b': {}}
    for name, steps in run_of.items():
        for step in range(5):
            steps[step] = tmp_path / f'{name}_{step}.png'
            write_png(steps[step], 16)
    size = (tmp_path / 'a_0.png').stat().st_size
    whole = (tmp_path / 'b_4.png').read_bytes()
    (tmp_path / 'b_4.png').write_bytes(whole[:-4])
    found = embed_pictures([run_of], 5 * size)
    assert {name: sorted(urls) for name, urls in found.urls[0].items()} == {
        'a': [0, 2, 4], 'b': [0, 2]}
    assert (found.size, found.left_out) == (5 * size, 4)
    assert found.left_out_size == 4 * size
    assert found.broken == [['b_4.png']]
    kind, code = found.urls[0]['a'][2].split(',')
    assert kind == 'data:image/png;base64'
    assert base64.b64decode(code) == (tmp_path / 'a_2.png').read_bytes()
    assert embed_pictures([run_of], 0).left_out == 10
