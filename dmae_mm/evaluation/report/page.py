"""One page of HTML with everything in it, from runs."""
import base64
import html
import math
import statistics
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from dmae_mm.files import write_whole
from dmae_mm.version import __version__

from dmae_mm.config_text import differences
from .run import Run

try:
    import jinja2
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots
except ImportError as error:
    raise ImportError(
        f'The report needs a package that is not installed ({error}): '
        'pip install "dmae_mm[report]", or, from a clone, '
        'pip install -c constraints.txt -e ".[report]"') from error

# Points of a curve that a screen can show. Of more, the extremes of each
# stretch are drawn, so that no peak is lost.
MAX_POINTS = 2000
SECTIONS = ('losses', 'accuracy', 'speed and memory', 'learning rate',
            'other values')
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
# Colours that colour-blind people can tell apart; dashes help on paper.
COLOURS = ('#0072b2', '#d55e00', '#00805c', '#b0528c', '#8f6400', '#2f8ccc',
           '#333333')
DASHES = ('solid', 'dash', 'dashdot', 'longdash')
PNG_END = b'IEND\xaeB`\x82'


def write_page(runs: List[Run],
               path: Path,
               max_picture_bytes: int,
               left_out: Sequence[str] = (),
               accuracies: Dict[str, Sequence[float]] = {}) -> None:
    """Write the report, whole or not at all.

    Args:
        runs (list[Run]): At least one, each with at least one start.
        path (Path): The HTML file. One that is there is replaced.
        max_picture_bytes (int): Most bytes of picture files in the page.
        left_out (sequence[str]): Which folders are not in the page, and why.
        accuracies (dict[str, sequence[float]]): For each model that was
            probed, nearest neighbours and linear probe in percent. Defaults
            to {}.

    Raises:
        OSError: If it cannot be written, or a picture cannot be read. What
            was there stays then.
    """
    pictures, more = choose_pictures(runs, max_picture_bytes)
    charts = chart_names(runs)
    # autoescape: no text of a log becomes a part of the page.
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FileSystemLoader(Path(__file__).parent))
    environment.filters.update(
        number=format_number,
        median=statistics.median,
        png=lambda path: base64.b64encode(path.read_bytes()).decode(),
        clock=lambda seconds: time.strftime('%Y-%m-%d %H:%M',
                                            time.localtime(seconds)))
    text = environment.get_template('page.html').render(
        runs=runs,
        left_out=left_out,
        accuracies={name: [f'{value:.1f}' for value in values]
                    for name, values in accuracies.items()},
        curves=draw(runs, charts).to_html(
            full_html=False,
            div_id='curves',
            config=dict(
                displaylogo=False,
                showSendToCloud=False,  # a button that uploads the values
                modeBarButtonsToRemove=['select2d', 'lasso2d'])),
        last={name: [last_and_best(run, name, section) for run in runs]
              for name, section in charts.items()
              if section in ('losses', 'accuracy')},
        pictures=pictures,
        more_pictures=more,
        differences=differences([run.starts[-1].config for run in runs]),
        settings={
            name: [run.starts[-1].environment.get(name, '') for run in runs]
            for run in runs for name in run.starts[-1].environment
        },
        now=time.time(),
        version=__version__)
    with write_whole(str(path)) as unfinished:
        Path(unfinished).write_text(text, 'utf-8', errors='replace')


def chart_names(runs: List[Run]) -> Dict[str, str]:
    """Which curves there are, and their sections, as they are shown."""
    names = dict.fromkeys(name for run in runs for name in run.curves)
    if all(run.curves.get('base_lr') == run.curves.get('lr') for run in runs):
        names.pop('base_lr', None)
    names.pop('time', None)  # shown as throughput
    measured = set().union(*(run.measured for run in runs))
    sections = {name: _section(name, name in measured) for name in names}
    return dict(sorted(sections.items(),
                       key=lambda item: SECTIONS.index(item[1])))


def _section(name: str, measured: bool) -> str:
    if 'loss' in name:
        return 'losses'
    if measured:
        return 'accuracy'
    if name in ('images/s', 'iterations/s', 'data_time', 'memory'):
        return 'speed and memory'
    return 'learning rate' if name.endswith('lr') else 'other values'


def draw(runs: List[Run], charts: Dict[str, str]) -> go.Figure:
    """All curves; zooming, and hiding a run, works in all charts at once.

    Args:
        runs (list[Run]): The runs.
        charts (dict[str, str]): Names of curves, and their sections.

    Returns:
        Figure: Two charts in a row.
    """
    rows = math.ceil(len(charts) / 2)
    height = 330 * rows  # of all charts, in pixels
    figure = make_subplots(
        rows, 2, shared_xaxes='all', horizontal_spacing=0.08,
        vertical_spacing=100 / height,
        specs=[[{}, {} if 2 * row + 1 < len(charts) else None]
               for row in range(rows)],
        subplot_titles=[f'<b>{_as_text(name)}</b> {MEANINGS.get(name, "")}'
                        for name in charts])
    owners = []  # for each trace, whose it is
    for number, run in enumerate(runs):
        for place, name in enumerate(charts):
            for trace in _traces(run, name, COLOURS[number % len(COLOURS)],
                                 DASHES[number % len(DASHES)]):
                figure.add_scatter(
                    **trace, row=place // 2 + 1, col=place % 2 + 1,
                    name=_as_text(run.name), legendgroup=number,
                    showlegend=run not in owners)
                owners.append(run)
    # plotly's names of the axes: xaxis, xaxis2, xaxis3, ...
    axes = ['', *map(str, range(2, len(charts) + 1))]
    along = [
        dict(label=what, method='update', args=[
            dict(x=[[at * run.per_iteration(what) for at in trace.x]
                    for run, trace in zip(owners, figure.data)]),
            {f'xaxis{axis}.{key}': value for axis in axes for key, value in
             {'title.text': what, 'autorange': True}.items()}])
        for what in ('iterations', 'epochs', 'images seen')
        if all(run.per_iteration(what) for run in runs)]
    scale = [
        dict(label=f'losses {kind}', method='relayout', args=[
            {f'yaxis{axis}.type': kind for axis, name in zip(axes, charts)
             if charts[name] == 'losses'}]) for kind in ('linear', 'log')]
    above = dict(xanchor='left', yanchor='bottom', x=0, y=1 + 40 / height)
    menu = dict(above, type='buttons', direction='right', pad=dict(b=40))
    figure.update_xaxes(title=dict(text='iterations', standoff=5),
                        showticklabels=True)
    figure.update_yaxes(exponentformat='e')
    figure.update_layout(
        template='plotly_white', height=height + 200, hovermode='x unified',
        hoverlabel_namelength=-1, legend=dict(above, orientation='h'),
        margin=dict(l=50, r=20, t=150, b=50),
        updatemenus=[dict(menu, buttons=along),
                     dict(menu, buttons=scale, x=0.5)])
    return figure


def _as_text(name: str) -> str:
    """For plotly, which reads some tags in texts."""
    return html.escape(name, quote=False)


def _traces(run: Run, name: str, colour: str,
            dash: str) -> Iterator[Dict[str, Any]]:
    """A curve, the pieces of it that were done again, and its marks."""
    curve = run.curves.get(name)
    if not curve:
        return
    line = dict(color=colour, width=1.5)
    x, y = thinned(curve)
    yield dict(x=x, y=y, line=dict(line, dash=dash),
               mode='lines+markers' if len(x) < 30 else 'lines')
    for piece in run.repeated.get(name, []):
        x, y = thinned(piece)
        yield dict(x=x, y=y, line=dict(line, dash='dot'), mode='lines',
                   hoverinfo='skip')
    bad = {at for at in curve if not math.isfinite(curve[at])}
    marks = [(start.first, 'line-ns-open', f'resumed at {start.first}')
             for start in run.starts[1:]]
    marks += [(at, 'x', f'{curve[at]} at {at}') for at in sorted(bad)[:1]]
    for at, symbol, text in marks:
        before = [other for other in curve if other <= at and other not in bad]
        if before:  # at the height of the last finite value
            yield dict(x=[at], y=[curve[max(before)]], mode='markers',
                       hovertext=text, hoverinfo='text', marker=dict(
                           symbol=symbol, size=14, color=colour,
                           line=dict(color=colour, width=2)))


def thinned(curve: Dict[int, float]
            ) -> Tuple[List[int], List[Optional[float]]]:
    """Points to draw: at most about :data:`MAX_POINTS`, extremes kept.

    Args:
        curve (dict): Iteration and value.

    Returns:
        tuple: Iterations, ascending, and their values; None, which is a gap
        in the curve, for what is not finite.
    """
    points = [(at, value if math.isfinite(value) else None)
              for at, value in sorted(curve.items())]
    if len(points) > MAX_POINTS:
        width = math.ceil(len(points) / (MAX_POINTS / 2))
        kept = {points[0], points[-1]}
        for start in range(0, len(points), width):
            stretch = [point for point in points[start:start + width]
                       if point[1] is not None]
            for choose in (min, max) if stretch else ():
                kept.add(choose(stretch, key=lambda point: point[1]))
        points = sorted(kept)
    return [at for at, _ in points], [value for _, value in points]


def last_and_best(run: Run, name: str, section: str) -> str:
    """The last value, and the best with its iteration if it is another."""
    curve = run.curves.get(name)
    if not curve:
        return format_number(None)
    last = curve[max(curve)]
    finite = {at: value for at, value in curve.items() if math.isfinite(value)}
    choose = min if section == 'losses' else max
    best = choose(finite, key=finite.get, default=None)
    if best is None or finite[best] == last:
        return format_number(last)
    return (f'{format_number(last)} ({format_number(finite[best])} at '
            f'{best})')


def format_number(value: Optional[float]) -> str:
    """Four digits, and whole numbers up to ten million as they are.

    Args:
        value (float | None): A logged value.

    Returns:
        str: '0.1235', '1.2e-05', '98.33', '45231'; a dash for None.
    """
    if value is None:
        return '\N{EN DASH}'
    return f'{value:.0f}' if 1e4 <= abs(value) < 1e7 else f'{value:.4g}'


def choose_pictures(
        runs: List[Run],
        max_bytes: int) -> Tuple[List[Tuple[str, Dict[int, Path]]], int]:
    """As many pictures as a size allows, evenly over the steps.

    Files that are no whole PNG are left out and noted in the run.

    Args:
        runs (list[Run]): The runs.
        max_bytes (int): Most bytes that the files may have together.

    Returns:
        tuple: Titles, each with its steps and files, the last step always
        among them; and how many files had no room.
    """
    strips, sizes = [], {}
    for name in sorted({name for run in runs for name in run.pictures}):
        for run in runs:
            paths = run.pictures.get(name, {})
            sizes.update({path: _size_of_png(path) for path in paths.values()})
            run.notes += [f'{path} is no whole PNG file.'
                          for path in paths.values() if not sizes[path]]
            steps = [step for step in sorted(paths) if sizes[paths[step]]]
            if steps:
                strips.append((f'{name}: {run.name}', steps, paths))
    most = max((len(steps) for _, steps, _ in strips), default=0)
    total = sum(len(steps) for _, steps, _ in strips)
    for count in range(most, 0, -1):
        chosen = [(title, {step: paths[step] for step in evenly(steps, count)})
                  for title, steps, paths in strips]
        files = [path for _, steps in chosen for path in steps.values()]
        if sum(sizes[path] for path in files) <= max_bytes:
            return chosen, total - len(files)
    return [], total


def _size_of_png(path: Path) -> int:
    """In bytes; 0 for a file that a kill has cut off, or that is none."""
    content = path.read_bytes()
    return len(content) if content.endswith(PNG_END) else 0


def evenly(steps: List[int], count: int) -> List[int]:
    """At most so many of them, the last one always, else spread evenly."""
    at = np.linspace(len(steps) - 1, 0, min(count, len(steps))).round()
    return [steps[int(index)] for index in reversed(at)]
