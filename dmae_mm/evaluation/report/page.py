"""One page of HTML with everything in it, from runs."""
import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import jinja2

from dmae_mm.version import __version__

from .config_text import differences
from .pictures import embed_pictures
from .run import Run

HERE = Path(__file__).parent
# Points of a curve that a screen can show. Of more, the extremes of each
# stretch are drawn, so that no peak is lost.
MAX_POINTS = 2000
SECTIONS = ('Losses', 'Accuracy', 'Speed and memory', 'Learning rate',
            'Other values')
# What a name in the log means, where the name does not say it.
MEANINGS = {
    'loss': 'sum of all loss terms',
    'images/s': 'batch size x processes / time of an iteration',
    'iterations/s': '1 / time of an iteration',
    'data_time': 'seconds of an iteration spent waiting for images',
    'memory': 'most memory that tensors took on the GPU, MB',
    'lr': 'learning rate of the first parameter group',
    'base_lr': 'learning rate before factors of single layers',
    'grad_norm': 'norm of the gradient before clipping',
}


def write_page(runs: List[Run],
               path: Path,
               max_picture_bytes: int,
               left_out: Sequence[str] = ()) -> None:
    """Write the report, whole or not at all.

    Args:
        runs (list[Run]): At least one, each with at least one start.
        path (Path): The HTML file. One that is there is replaced.
        max_picture_bytes (int): Most bytes of picture files in the page.
        left_out (sequence[str]): Which folders are not in the page, and why.

    Raises:
        OSError: If it cannot be written. What was there stays then.
    """
    text = render(runs, max_picture_bytes, left_out)
    with tempfile.TemporaryDirectory(
            dir=path.absolute().parent, prefix='.writing-') as folder:
        written = Path(folder, path.name)
        written.write_text(text, encoding='utf-8', errors='replace')
        os.replace(written, path)


def render(runs: List[Run], max_picture_bytes: int,
           left_out: Sequence[str]) -> str:
    """The page as text: nothing in it is loaded from anywhere else."""
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FileSystemLoader(HERE))
    # A NaN would be an error here, rather than in the browser.
    environment.policies['json.dumps_kwargs'] = dict(allow_nan=False)
    environment.filters.update(number=format_number, clock=_clock,
                               last_and_best=_last_and_best)
    pictures = embed_pictures([run.pictures for run in runs],
                              max_picture_bytes)
    for run, broken in zip(runs, pictures.broken):
        if broken:
            run.notes.append('Pictures that are no whole PNG file: '
                             f'{", ".join(broken)}.')
    charts = _charts(runs)
    data = dict(
        charts=charts,
        runs=[_run_data(run, charts) for run in runs],
        pictures=pictures.urls)
    return environment.get_template('page.html').render(
        runs=runs,
        left_out=left_out,
        sections=[name for name in SECTIONS
                  if any(chart['section'] == name for chart in charts)],
        charts=charts,
        pictures=pictures,
        differences=differences([run.starts[-1].config for run in runs]),
        settings=_settings(runs),
        data=data,
        css=(HERE / 'page.css').read_text(),
        script=(HERE / 'curves.js').read_text() +
        (HERE / 'page.js').read_text(),
        now=time.time(),
        version=__version__)


def _charts(runs: List[Run]) -> List[Dict[str, Any]]:
    """Which curves there are, in the order in which they are shown."""
    names: Dict[str, bool] = {}
    for run in runs:
        for name in run.curves:
            names[name] = names.get(name, False) or name in run.measured
    if all(run.curves.get('base_lr') == run.curves.get('lr') for run in runs):
        names.pop('base_lr', None)
    names.pop('time', None)  # shown as throughput
    charts = []
    for name, measured in names.items():
        section = _section(name, measured)
        charts.append(
            dict(
                name=name,
                section=section,
                meaning=MEANINGS.get(name, ''),
                # What is not noise is not smoothed.
                smooth=not measured and section != 'Learning rate'))
    return sorted(charts, key=lambda chart: SECTIONS.index(chart['section']))


def _section(name: str, measured: bool) -> str:
    if 'loss' in name:
        return 'Losses'
    if measured:
        return 'Accuracy'
    if name in ('images/s', 'iterations/s', 'data_time', 'memory'):
        return 'Speed and memory'
    return 'Learning rate' if name.endswith('lr') else 'Other values'


def _run_data(run: Run, charts: List[Dict[str, Any]]) -> Dict[str, Any]:
    """What the script draws."""
    curves = {}
    for name in (chart['name'] for chart in charts):
        if name in run.curves:
            curve = run.curves[name]
            pieces = [curve] + run.repeated.get(name, [])
            curves[name] = dict(
                pieces=[thinned(piece) for piece in pieces],
                count=len(curve),
                bad=sorted(at for at, value in curve.items()
                           if not math.isfinite(value)))
    return dict(
        name=run.name,
        curves=curves,
        resumes=[start.first for start in run.starts[1:]],
        scales=dict(
            iteration=1,
            epoch=run.per_iteration('epoch'),
            image=run.per_iteration('image')))


def thinned(curve: Dict[int, float]) -> List[List[float]]:
    """Points to draw: at most about :data:`MAX_POINTS`, extremes kept.

    Args:
        curve (dict): Iteration and value.

    Returns:
        list[list[float]]: Iterations, ascending, and their finite values.
    """
    points = sorted(item for item in curve.items() if math.isfinite(item[1]))
    if len(points) > MAX_POINTS:
        width = math.ceil(len(points) / (MAX_POINTS / 2))
        kept = {points[0], points[-1]}
        for start in range(0, len(points), width):
            stretch = points[start:start + width]
            kept.add(min(stretch, key=lambda point: point[1]))
            kept.add(max(stretch, key=lambda point: point[1]))
        points = sorted(kept)
    return [[at for at, _ in points], [value for _, value in points]]


def _last_and_best(run: Run, chart: Dict[str, Any]) -> str:
    """The last value, and the best with its iteration if it is another."""
    curve = run.curves.get(chart['name'])
    if not curve:
        return format_number(None)
    last = curve[max(curve)]
    finite = {at: value for at, value in curve.items() if math.isfinite(value)}
    choose = min if chart['section'] == 'Losses' else max
    best = choose(finite, key=finite.get, default=None)
    if best is None or finite[best] == last:
        return format_number(last)
    return (f'{format_number(last)} ({format_number(finite[best])} at '
            f'{best})')


def _settings(runs: List[Run]) -> List[List[str]]:
    """The environment: names, and the value of each run."""
    names = dict.fromkeys(
        name for run in runs for name in run.starts[-1].environment)
    return [[name] + [run.starts[-1].environment.get(name, '')
                      for run in runs] for name in names]


def format_number(value: Optional[float]) -> str:
    """Four digits, and whole numbers up to a million as they are.

    Args:
        value (float | None): A logged value.

    Returns:
        str: '0.1235', '1.2e-05', '98.33', '45231'; a dash for None.
    """
    if value is None:
        return '\N{EN DASH}'
    return f'{value:.0f}' if 1e4 <= abs(value) < 1e7 else f'{value:.4g}'


def _clock(seconds: float) -> str:
    return time.strftime('%Y-%m-%d %H:%M', time.localtime(seconds))
