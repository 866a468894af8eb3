"""Reconstructions side by side, with captions, as one picture."""
from typing import List, Sequence, Tuple

import numpy as np

from .reconstruction import Reconstruction

# In pixels.
PANEL, GAP, TITLE, CAPTION, BAR = 224, 12, 20, 15, 46
FONT_SIZE = 10.5  # also in pixels, as the resolution is 72 dots per inch
Panel = Tuple[str, np.ndarray]


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
    # Not pyplot, which would choose how the whole process draws.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    panels = [_panels(row) for row in rows]
    has_maps = bool(rows[0][0].similarity)
    lines = [*note.splitlines(), *_caption(rows[0][0])]

    size = _scale(rows[0][0].original.shape[0])
    width = len(panels[0]) * (size + GAP) + GAP + has_maps * BAR
    width = max(width, 3 * PANEL)  # for the caption
    lines = [part for line in lines for part in _wrapped(line, width)]
    row_height = TITLE + size + GAP
    height = len(rows) * row_height + GAP + len(lines) * CAPTION
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    canvas = FigureCanvasAgg(figure)
    for i, row in enumerate(panels):
        for j, (title, pixels) in enumerate(row):
            left = GAP + j * (size + GAP)
            bottom = height - (i + 1) * row_height + GAP
            axes = figure.add_axes((left / width, bottom / height,
                                    size / width, size / height))
            axes.set(xticks=[], yticks=[])
            axes.set_title(title, fontsize=FONT_SIZE, pad=4)
            shown = axes.imshow(
                pixels, interpolation='nearest', cmap='viridis', vmin=0,
                vmax=1)
        if has_maps:
            bar = figure.add_axes(((left + size + GAP / 2) / width,
                                   bottom / height, 10 / width, size / height))
            # The arrow says that values below 0 have the colour of 0.
            figure.colorbar(shown, cax=bar, extend='min')
            bar.tick_params(labelsize=FONT_SIZE - 2)
    for i, line in enumerate(reversed(lines)):
        figure.text(
            GAP / width, (GAP / 2 + i * CAPTION) / height,
            line,
            fontsize=FONT_SIZE)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _scale(size: int) -> int:
    """Side of a panel: a whole multiple of a small image's."""
    return size * max(1, PANEL // size)


def _panels(row: Sequence[Reconstruction]) -> List[Panel]:
    """Titles and pixels of a row, from left to right."""
    panels, maps = [], []
    for found in row:
        share = (f'{found.num_visible} of {found.num_patches}')
        panels += [(f'{share} patches visible', found.masked),
                   ('reconstruction', found.reconstructed)]
        maps += [(f'{name}, {share}: mean {np.nanmean(values):.2f}',
                  np.ma.masked_invalid(values))
                 for name, values in found.similarity.items()]
    return [*panels, ('original', row[0].original), *maps]


def _caption(found: Reconstruction) -> List[str]:
    lines = ['Reconstruction: visible patches are those of the image, the '
             'others are predicted.']
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


def _wrapped(line: str, width: int) -> List[str]:
    import textwrap
    return textwrap.wrap(line, int(width / (0.55 * FONT_SIZE))) or ['']
