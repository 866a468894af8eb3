"""A matrix of similarities as a picture."""
from typing import Sequence

import numpy as np
import torch

from .layer_similarity import Pair


def draw_layer_similarity(cka: torch.Tensor, rule: Pair,
                          chosen: Sequence[Pair], title: str) -> np.ndarray:
    """Draw CKA of all blocks, the first block of both at the lower left.

    Args:
        cka (torch.Tensor): (student blocks, teacher blocks).
        rule (Pair): The paper's pair.
        chosen (Sequence[Pair]): The most similar ones.
        title (str): What is said above.

    Returns:
        np.ndarray: The picture, (height, width, 3), uint8, RGB.
    """
    # Not pyplot, which would choose how the whole process draws.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    rows, columns = cka.shape
    figure = Figure(
        figsize=(2.4 + 0.3 * max(columns, 8), 1.5 + 0.3 * max(rows, 5)),
        dpi=90,
        layout='constrained')
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shown = axes.imshow(cka.numpy(), origin='lower', vmin=0, vmax=1)
    axes.set(
        xlabel='teacher block',
        ylabel='student block',
        xticks=range(0, columns, 1 + columns // 20),
        yticks=range(0, rows, 1 + rows // 20))
    axes.set_title(title, fontsize=9, loc='left')
    axes.plot(
        rule.teacher,
        rule.student,
        'o',
        color='red',
        fillstyle='none',
        markersize=13,
        markeredgewidth=2,
        label='3/4 of both depths')
    axes.plot([pair.teacher for pair in chosen],
              [pair.student for pair in chosen],
              'x',
              color='red',
              markersize=9,
              markeredgewidth=2,
              label="student block's most similar")
    figure.legend(loc='outside lower left', ncols=2, fontsize=8)
    # The arrow says that values below 0 have the colour of 0.
    figure.colorbar(shown, label='linear CKA', extend='min')
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
