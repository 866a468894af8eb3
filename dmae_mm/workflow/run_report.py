"""The page on a result: losses, pictures and, with labels, accuracies."""
import os.path as osp
from pathlib import Path
from typing import Any, Dict, Optional

from .out_folder import OutFolder

FILE = 'report.html'
MAX_PICTURE_BYTES = 20_000_000


def write_report(folder: OutFolder, anew: bool,
                 evaluation: Optional[Dict[str, Any]]) -> str:
    """Write ``report.html``.

    Args:
        folder (OutFolder): Of a result.
        anew (bool): Whether one that is there is written again.
        evaluation (dict | None): What ``evaluation.json`` holds, if anything.

    Returns:
        str: Its path.

    Raises:
        ImportError: If a package is not installed; says which extra has it.
        ValueError: If the run has left no values.
        OSError: If it cannot be written.
    """
    path = osp.join(folder.path, FILE)
    if anew or not osp.exists(path):
        # Its packages are an extra.
        from dmae_mm.evaluation.report import Run, write_page
        run = Run(Path(folder.path), osp.basename(osp.abspath(folder.path)))
        if not run.starts:
            raise ValueError(f'{folder.path} has no logged values.')
        accuracies = {row['name']: (row['knn'], row['linear'])
                      for row in (evaluation or {}).get('rows', ())}
        write_page([run], Path(path), MAX_PICTURE_BYTES, (), accuracies)
    return path
