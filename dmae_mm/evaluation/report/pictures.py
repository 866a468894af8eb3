"""Pictures in a page: as many as a size allows, evenly over the steps."""
import base64
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

PNG_START, PNG_END = b'\x89PNG\r\n\x1a\n', b'IEND\xaeB`\x82'


class Pictures(NamedTuple):
    """What :func:`embed_pictures` returns.

    Attributes:
        urls (list[dict]): For each run, name, step and ``data:`` URL.
        size (int): Bytes of the embedded files.
        left_out (int): Number of files for which there was no room.
        left_out_size (int): Their bytes.
        broken (list[list[str]]): For each run, files that are no whole PNG.
    """
    urls: List[Dict[str, Dict[int, str]]]
    size: int
    left_out: int
    left_out_size: int
    broken: List[List[str]]


def embed_pictures(runs: List[Dict[str, Dict[int, Path]]],
                   max_bytes: int) -> Pictures:
    """Choose pictures and read them.

    Of each name in each run the last step comes first, then the first one,
    then the one in the middle, and so on, in turns, until there is no room.

    Args:
        runs (list[dict]): For each run, name, step and file.
        max_bytes (int): Most bytes that the files may have together.

    Returns:
        Pictures: The chosen ones, and what became of the others.
    """
    queues = [(index, name, spread(sorted(steps)))
              for index, run in enumerate(runs)
              for name, steps in sorted(run.items())]
    turns = [(index, name, steps[turn])
             for turn in range(max((len(q[2]) for q in queues), default=0))
             for index, name, steps in queues if turn < len(steps)]
    urls: List[Dict[str, Dict[int, str]]] = [{} for _ in runs]
    broken: List[List[str]] = [[] for _ in runs]
    size = left_out = left_out_size = 0
    for index, name, step in turns:
        path = runs[index][name][step]
        try:
            bytes_of_file = path.stat().st_size
            if size + bytes_of_file > max_bytes:
                left_out += 1
                left_out_size += bytes_of_file
                continue
            content = path.read_bytes()
        except OSError:
            content = b''
        if not (content.startswith(PNG_START) and content.endswith(PNG_END)):
            broken[index].append(path.name)
            continue
        size += len(content)
        urls[index].setdefault(name, {})[step] = (
            'data:image/png;base64,' + base64.b64encode(content).decode())
    return Pictures(urls, size, left_out, left_out_size, broken)


def spread(steps: List[int]) -> List[int]:
    """Order steps such that each beginning of the list is spread evenly.

    Args:
        steps (list[int]): Ascending.

    Returns:
        list[int]: The last, the first, the middle, the quarters, ...
    """
    if len(steps) < 2:
        return list(steps)
    order, gaps = [len(steps) - 1, 0], [(0, len(steps) - 1)]
    while gaps:
        wider: List[Tuple[int, int]] = []
        for low, high in gaps:
            middle = (low + high) // 2
            if middle != low:
                order.append(middle)
                wider += [(low, middle), (middle, high)]
        gaps = wider
    return [steps[index] for index in order]
