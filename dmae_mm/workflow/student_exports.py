"""The trained student, as others load it."""
import os.path as osp
import re
from typing import Callable, Dict, Optional

from dmae_mm.host import read_config
from dmae_mm.launch import crop_size
from dmae_mm.weights.export import FORMATS, export_checkpoint
from dmae_mm.weights.export import export_student as write_student

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


def export_student(folder: OutFolder, checkpoint: str, to: Optional[str],
                   say: Callable[[str], None]) -> Dict[str, str]:
    """Export the student, unless that was done of this checkpoint before.

    Args:
        folder (OutFolder): Of the result.
        checkpoint (str): Of the trained student.
        to (str, optional): A format. None for ``student.safetensors`` with
            the names of timm where timm can build the student, else with its
            own.
        say (Callable): Takes each line for a person.

    Returns:
        dict: ``to``, the format, or the class whose names it has; ``file``,
        in the folder; and ``usage``, the code that uses it.

    Raises:
        ValueError: If the format cannot express the student.
        OSError: If it cannot be written.
    """
    what, source = f'export to {to or "any"}', osp.basename(checkpoint)
    made = folder.made(what, checkpoint=source)
    if made is not None:
        return made
    file = FILES[to or 'timm']
    path = osp.join(folder.path, file)
    if to is None:
        exported = write_student(folder.config_file, checkpoint, path)
        names = exported.names
    else:
        exported = export_checkpoint(
            folder.config_file, checkpoint, path, to, overwrite=True,
            **dict(num_classes=0) if to == 'timm' else {})
        say(f'{file}: {exported.loaded_by} loads it and computes the same, '
            f'to {max(exported.differences.values()):.0e}.')
        names = to
    for note in exported.notes:
        say(f'Note on {file}: {note}.')
    usage = exported.usage
    if names == 'timm':
        usage = _in_timm(usage, crop_size(read_config(folder.config_file)))
    folder.note_made(what, to=names, file=file, checkpoint=source,
                     usage=usage)
    return folder.made(what)


def _in_timm(line: str, size: Optional[int]) -> str:
    """From the line that makes a model of timm to features of an image.

    Args:
        line (str): Of :func:`export_checkpoint`.
        size (int, optional): Of the images of the training. A model that
            takes any has that of its name.
    """
    imports = [name for name in ('functools', 'timm', 'torch')
               if f'{name}.' in line]
    options = 'timm.data.resolve_model_data_config(student)'
    made_for = re.search(r"'input_size': \((\d+), (\d+), ", line)
    if made_for and size and int(made_for[2]) != size:
        options = (f'dict({options}, '
                   f'input_size=({made_for[1]}, {size}, {size}))')
    # Not student(...): in front of the classifier that is left out, some have
    # layers that no training has seen.
    return '\n'.join([
        f'import {", ".join(imports)}', f'student = {line}.eval()',
        f'transform = timm.data.create_transform(**{options})',
        '# Of a picture opened by PIL.',
        "features = student.forward_features("
        "transform(image.convert('RGB'))[None])",
    ])
