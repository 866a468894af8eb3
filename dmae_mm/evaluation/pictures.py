"""Drawings of what was found, and their files.

They are drawn without pyplot, which would choose how the whole process draws.
"""
import textwrap
from typing import Any, List, Sequence, Tuple

import numpy as np
from PIL import Image

from dmae_mm.files import check_place, write_whole

from .reconstruction import Reconstruction

# Of the reconstructions, in pixels.
PANEL, GAP, TITLE, CAPTION, BAR = 224, 12, 20, 15, 46
FONT_SIZE = 10.5  # also in pixels, as the resolution is 72 dots per inch


def check_png(path: str) -> None:
    """Find out before the work whether a picture can be written.

    Args:
        path (str): Of the file.

    Raises:
        ValueError: If it is not the name of a ``.png`` file.
        OSError: If its folder cannot be written to.
    """
    if not path.lower().endswith('.png'):
        raise ValueError(f'--out {path!r} is not the name of a .png file.')
    check_place(path)


def write_png(path: str, picture: np.ndarray) -> None:
    """Write a picture.

    Args:
        path (str): The file.
        picture (np.ndarray): (height, width, 3), uint8, RGB.

    Raises:
        CannotWrite: If it cannot be written.
    """
    with write_whole(path) as unfinished:
        Image.fromarray(picture).save(unfinished)


def _figure(**options: Any) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(**options)
    FigureCanvasAgg(figure)
    return figure


def _drawn(figure: Any) -> np.ndarray:
    """Pixels, (height, width, 3), uint8, RGB."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def draw_reconstructions(rows: Sequence[Sequence[Reconstruction]],
                         note: str = '') -> np.ndarray:
    """Draw what was visible, the reconstruction, the original, and maps.

    Args:
        rows (Sequence[Sequence[Reconstruction]]): One row an image: its
            reconstructions at one or several mask ratios.
        note (str): What is said first below the pictures, such as the names
            of the images; '' for nothing.

    Returns:
        np.ndarray: The picture, (height, width, 3), uint8, RGB.
    """
    panels = [_panels(row) for row in rows]
    first = rows[0][0]
    size = first.original.shape[0]
    size *= max(1, PANEL // size)  # a whole multiple of a small image's
    width = len(panels[0]) * (size + GAP) + GAP + bool(first.similarity) * BAR
    width = max(width, 3 * PANEL)  # for the caption
    letters = int(width / (0.55 * FONT_SIZE))
    lines = [
        part for line in [*note.splitlines(), *_caption(first)]
        for part in textwrap.wrap(line, letters) or ['']
    ]
    row_height = TITLE + size + GAP
    height = len(rows) * row_height + GAP + len(lines) * CAPTION
    figure = _figure(figsize=(width / 72, height / 72), dpi=72)

    def add_axes(left: float, bottom: float, wide: float) -> Any:
        return figure.add_axes((left / width, bottom / height, wide / width,
                                size / height))

    for i, row in enumerate(panels):
        bottom = height - (i + 1) * row_height + GAP
        for j, (title, pixels) in enumerate(row):
            left = GAP + j * (size + GAP)
            axes = add_axes(left, bottom, size)
            axes.set(xticks=[], yticks=[])
            axes.set_title(title, fontsize=FONT_SIZE, pad=4)
            shown = axes.imshow(
                pixels, interpolation='nearest', cmap='viridis', vmin=0,
                vmax=1)
        if first.similarity:
            bar = add_axes(left + size + GAP / 2, bottom, 10)
            # The arrow says that values below 0 have the colour of 0.
            figure.colorbar(shown, cax=bar, extend='min')
            bar.tick_params(labelsize=FONT_SIZE - 2)
    for i, line in enumerate(reversed(lines)):
        figure.text(
            GAP / width, (GAP / 2 + i * CAPTION) / height,
            line,
            fontsize=FONT_SIZE)
    return _drawn(figure)


def _panels(row: Sequence[Reconstruction]) -> List[Tuple[str, np.ndarray]]:
    """Titles and pixels of a row, from left to right."""
    panels, maps = [], []
    for found in row:
        share = f'{found.num_visible} of {found.num_patches}'
        panels += [(f'{share} patches visible', found.masked),
                   ('reconstruction', found.reconstructed)]
        maps += [(f'{name}, {share}: mean {np.nanmean(values):.2f}',
                  np.ma.masked_invalid(values))
                 for name, values in found.similarity.items()]
    return [*panels, ('original', row[0].original), *maps]


def _caption(found: Reconstruction) -> List[str]:
    lines = ['Reconstruction: visible patches are those of the image, the '
             'others are predicted.']
    if found.channels != 3:
        shown = found.shown
        lines.append(f'Images of {found.channels} channels: ' + (
            'grey' if found.channels == 1 else
            f'channel {shown[0]} is shown in grey' if shown[0] == shown[1] else
            'channels {}, {} and {} are shown as red, green and blue'.format(
                *shown)) + '.')
    if found.norm_pix:
        lines.append(
            'norm_pix: predicted up to mean and variance of each patch; '
            'those of the original are put in, which the model does not '
            'know.')
    if found.similarity:
        lines.append(
            'Maps: cosine between projected student (s, block) and teacher '
            '(t, block) for each visible patch; blank where hidden.')
    return lines


def draw_layer_similarity(results: dict, title: str) -> np.ndarray:
    """Draw CKA of all blocks, the first block of both at the lower left.

    Args:
        results (dict): From :func:`compare_layers`.
        title (str): What is said above.

    Returns:
        np.ndarray: The picture, (height, width, 3), uint8, RGB.
    """
    cka = np.array(results['cka'])
    rows, columns = cka.shape
    figure = _figure(
        figsize=(2.4 + 0.3 * max(columns, 8), 1.5 + 0.3 * max(rows, 5)),
        dpi=90,
        layout='constrained')
    axes = figure.add_subplot()
    shown = axes.imshow(cka, origin='lower', vmin=0, vmax=1)
    axes.set(
        xlabel='teacher block',
        ylabel='student block',
        xticks=range(0, columns, 1 + columns // 20),
        yticks=range(0, rows, 1 + rows // 20))
    axes.set_title(title, fontsize=9, loc='left')
    for pairs, marker, size, label in (
        ([results['rule']], 'o', 13, '3/4 of both depths'),
        (results['most_similar'], 'x', 9, "student block's most similar")):
        axes.plot([pair['teacher'] for pair in pairs],
                  [pair['student'] for pair in pairs],
                  marker,
                  color='red',
                  fillstyle='none',
                  markersize=size,
                  markeredgewidth=2,
                  label=label)
    figure.legend(loc='outside lower left', ncols=2, fontsize=8)
    # The arrow says that values below 0 have the colour of 0.
    figure.colorbar(shown, label='linear CKA', extend='min')
    return _drawn(figure)
