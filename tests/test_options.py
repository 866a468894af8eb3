import pytest

from dmae_mm.options import (close_first, is_finite_number, legal_options,
                             reject_unknown_options, unknown_options)


@reject_unknown_options
class Base:

    def __init__(self, size, depth=2):
        self.size, self.depth = size, depth


class Derived(Base):

    def __init__(self, **kwargs):
        super().__init__(**kwargs)


def test_legal_calls_are_unchanged():
    assert vars(Base(1)) == dict(size=1, depth=2)
    assert vars(Base(depth=3, size=1)) == dict(size=1, depth=3)


@pytest.mark.parametrize('cls', [Base, Derived])
def test_unknown_options_are_named_with_the_legal_ones(cls):
    with pytest.raises(
            TypeError,
            match="Base has no option sise=1, z='a'. .*: size, depth."):
        cls(size=1, sise=1, z='a')


def test_a_class_without_options():
    hook = reject_unknown_options(type('Hook', (), {}))
    hook()
    with pytest.raises(TypeError, match='interval=3. Its options are: none'):
        hook(interval=3)


def test_legal_options_of_the_bases_that_options_are_handed_to():
    class Third(Derived):

        def __init__(self, colour, **kwargs):
            super().__init__(**kwargs)

    assert legal_options(Third) == ['colour', 'size', 'depth']


def test_what_takes_any_option():
    class Any:

        def __init__(self, size, **kwargs):
            pass

    for made_by in (Any, lambda size, **kwargs: None):
        assert legal_options(made_by) is None
        assert unknown_options(made_by, dict(sise=1)) == ''


def test_close_options_come_first():
    assert unknown_options(Base, dict(deph=3)) == (
        'Base has no option deph=3. Its options are: depth, size.')


def test_missing_ones_are_still_pythons_error():
    with pytest.raises(TypeError, match="missing.*'size'"):
        Base(depth=1)


@pytest.mark.parametrize('value, wanted', [(0, True), (-1.5, True),
                                           (True, False), ('1', False),
                                           (None, False),
                                           (float('nan'), False),
                                           (float('inf'), False)])
def test_finite_numbers(value, wanted):
    assert is_finite_number(value) is wanted


def test_close_names_come_first():
    assert close_first('tiny', ['s', 'deit-tiny', 'b', 'deit-t']) == [
        'deit-tiny', 'b', 'deit-t', 's']
    assert close_first('x', ['b', 'a']) == ['a', 'b']
