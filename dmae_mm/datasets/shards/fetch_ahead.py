"""Brings shards to this machine before they are needed."""
from collections import deque
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Callable, Iterable, Iterator

# Downloads at a time; more of one machine rarely make them faster.
_THREADS = 4


def fetch_ahead(indices: Iterable[int], count: int,
                shard_of: Callable[[int], int],
                fetch: Callable[[int], None]) -> Iterator[int]:
    """Pass indices on, and fetch the shards of those that follow.

    A data loader takes indices in its own process and reads samples in
    workers. Were shards fetched by the workers, all of them would soon wait
    for the same one.

    Args:
        indices (Iterable[int]): Of samples, in the order of their use.
        count (int): How many indices to look ahead.
        shard_of (Callable[[int], int]): Gives the shard of a sample.
        fetch (Callable[[int], None]): Brings a shard here, if it is not; is
            called in threads. Errors are left to the worker that misses the
            shard.

    Yields:
        int: The same indices.
    """
    shards, wanted, following = SimpleQueue(), set(), deque()
    for _ in range(_THREADS):
        Thread(target=_fetch_all, args=(shards, fetch), daemon=True).start()
    try:
        for index in indices:
            shard = shard_of(index)
            if shard not in wanted:
                wanted.add(shard)
                shards.put(shard)
            following.append(index)
            if len(following) > count:
                yield following.popleft()
        yield from following
    finally:
        for _ in range(_THREADS):
            shards.put(None)


def _fetch_all(shards: SimpleQueue, fetch: Callable[[int], None]) -> None:
    for shard in iter(shards.get, None):
        with suppress(Exception):
            fetch(shard)
