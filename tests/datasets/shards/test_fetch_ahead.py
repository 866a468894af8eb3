"""fetch_ahead: the same indices, and their shards before them."""
import threading
import time

import pytest

from dmae_mm.datasets.shards.fetch_ahead import fetch_ahead


@pytest.fixture
def no_thread_is_left():
    """Of this test; those of tests before it may still end."""
    before = set(threading.enumerate())
    yield
    wait_for(lambda: set(threading.enumerate()) <= before)


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_shards_are_fetched_before_their_samples(no_thread_is_left):
    fetched = []
    indices = fetch_ahead(
        range(100), 25, lambda index: index // 10, fetched.append)
    assert fetched == []  # nothing before the first index is asked for
    for index in range(100):
        assert next(indices) == index
        ahead = min(99, index + 25) // 10
        wait_for(lambda ahead=ahead: len(fetched) > ahead)
        # Each once, and none that is further away.
        assert sorted(fetched) == list(range(ahead + 1))
    assert next(indices, None) is None


def test_errors_are_left_to_who_needs_the_shard():
    asked = []

    def fetch(shard):
        asked.append(shard)
        raise OSError('no network')

    assert list(fetch_ahead(range(9), 2, int, fetch)) == list(range(9))
    wait_for(lambda: len(asked) == 9)


def test_several_shards_are_fetched_at_a_time():
    together, fetched = threading.Barrier(4, timeout=10), []

    def fetch(shard):
        together.wait()  # until four are here
        fetched.append(shard)

    assert list(fetch_ahead(range(8), 7, int, fetch)) == list(range(8))
    wait_for(lambda: len(fetched) == 8)


def test_an_abandoned_epoch_ends_its_threads(no_thread_is_left):
    indices = fetch_ahead(range(9), 2, int, lambda _: None)
    next(indices)
    indices.close()
