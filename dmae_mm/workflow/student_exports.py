"""The trained student, as others load it."""
import os.path as osp
from typing import Any, Callable, Dict, Optional

from dmae_mm.weights.export import FORMATS, export_checkpoint

from .out_folder import OutFolder

# In the folder of a result; what has no ending is a folder.
FILES = {
    'timm': 'student.safetensors',
    'transformers': 'student_transformers',
    'onnx': 'student.onnx',
    'torch-export': 'student.pt2',
    'mmseg': 'student_mmseg.pth',
    'mmpretrain': 'student_mmpretrain.pth',
}


def check_formats(folder: OutFolder) -> None:
    """Find out before the training what the exports after it would lack.

    Args:
        folder (OutFolder): Of the result.

    Raises:
        ValueError: If a package is not installed; says what to install.
        OSError: If a file could not be written.
    """
    for to in folder.arguments.to:
        path = osp.join(folder.path, FILES[to])
        FORMATS[to].check_destination(path, to, True, '')


def export_student(folder: OutFolder, checkpoint: str, to: str, asked: bool,
                   say: Callable[[str], None]) -> Optional[Dict[str, Any]]:
    """Export to a format, unless that was done of this checkpoint before.

    Args:
        folder (OutFolder): Of the result.
        checkpoint (str): Of the trained student.
        to (str): The format.
        asked (bool): Whether a person asked for it. If not, a student that
            cannot be expressed in it is no failure.
        say (Callable): Takes each line for a person.

    Returns:
        dict | None: ``file``, in the folder, and ``usage``, the code that
        uses it; None for what was not asked for and cannot be.

    Raises:
        ValueError: If the format cannot express the student.
        OSError: If it cannot be written.
    """
    what, source = f'export to {to}', osp.basename(checkpoint)
    made = folder.made(what, checkpoint=source)
    if made is not None:
        return made
    file = FILES[to]
    try:
        exported = export_checkpoint(
            folder.config_file,
            checkpoint,
            osp.join(folder.path, file),
            to,
            overwrite=True,
            **dict(num_classes=0) if to == 'timm' else {})
    except ValueError as error:
        if asked:
            raise
        say(f'The student is not written for {to}: {error}')
        return None
    for note in exported.notes:
        say(f'Note on {file}: {note}.')
    say(f'{file}: {exported.loaded_by} loads it and computes the same, to '
        f'{max(exported.differences.values()):.0e}.')
    folder.note_made(what, file=file, checkpoint=source,
                     usage=exported.usage)
    return folder.made(what)
