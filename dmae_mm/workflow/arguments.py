"""What a person asks of `distill`, checked as far as that needs no image."""
import difflib
import os.path as osp
import re
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from dmae_mm.weights.export import FORMATS

PathLike = Union[str, Path]
# What a result depends on. The others say what is done with it afterwards.
TRAINED_WITH = ('images', 'teacher', 'student', 'size', 'epochs', 'quick',
                'cfg_options')


@dataclass(frozen=True)
class Arguments:
    """Of :func:`dmae_mm.distill`, in one form each.

    Attributes:
        images (str): Absolute path of the folder.
        teacher (tuple[str, ...]): As given, one or more.
        student (str): As given.
        out (str): Folder of the result, as given or chosen.
        size (int | None): Pixels.
        epochs (int | None): At least 1.
        labels (str | None): Absolute path of the folder.
        to (tuple[str, ...]): Formats, each once.
        quick (bool): Whether it is a rehearsal.
        cfg_options (dict): By dotted names.
    """
    images: str
    teacher: Tuple[str, ...]
    student: str
    out: str
    size: Optional[int] = None
    epochs: Optional[int] = None
    labels: Optional[str] = None
    to: Tuple[str, ...] = ()
    quick: bool = False
    cfg_options: Dict[str, Any] = field(default_factory=dict)

    @classmethod
    def checked(cls,
                images: PathLike,
                teacher: Union[PathLike, Sequence[PathLike]],
                student: str,
                size: Optional[int] = None,
                epochs: Optional[int] = None,
                out: Optional[PathLike] = None,
                labels: Optional[PathLike] = None,
                to: Union[str, Sequence[str]] = (),
                quick: bool = False,
                cfg_options: Optional[Dict[str, Any]] = None) -> 'Arguments':
        """Those that a person gave.

        Raises:
            FileNotFoundError: If a folder is not there.
            ValueError: If an argument has no legal value.
        """
        teachers = [teacher] if isinstance(teacher,
                                           (str, Path)) else list(teacher)
        teachers = [str(one) for one in teachers]
        if not teachers or not all(teachers):
            raise ValueError('--teacher was given no name. Give that of a '
                             'model in timm, a file, a folder of Hugging '
                             'Face, or CONFIG=FILE.')
        if not isinstance(student, str) or not student:
            raise ValueError(f'--student {student!r} is no name. Give that '
                             'of a model in timm or mmpretrain, such as '
                             'vit_tiny_patch16_224.')
        for name, value, unit in (('--size', size, 'pixels'),
                                  ('--epochs', epochs, 'epochs')):
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f'{name} {value!r} is no number of {unit}: '
                                 'an int of at least 1.')
        for name, folder in (('IMAGES', images), ('--labels', labels)):
            if folder is not None and not osp.isdir(folder):
                raise FileNotFoundError(
                    f'{name}: {folder} is a file. Give the folder of it.'
                    if osp.exists(folder) else
                    f'{name}: there is no folder {folder}.')
        formats = tuple(dict.fromkeys([to] if isinstance(to, str) else to))
        for name in formats:
            if name not in FORMATS:
                close = difflib.get_close_matches(name, FORMATS, 1)
                meant = f' Did you mean {close[0]}?' if close else ''
                raise ValueError(f'--to {name} does not exist. Choose from '
                                 f'{", ".join(FORMATS)}.{meant}')
        return cls(
            images=osp.abspath(images),
            teacher=tuple(teachers),
            student=student,
            out=str(out or _chosen(images, teachers, student, quick)),
            size=size,
            epochs=epochs,
            labels=None if labels is None else osp.abspath(labels),
            to=formats,
            quick=bool(quick),
            cfg_options=dict(cfg_options or {}))

    def as_json(self) -> Dict[str, Any]:
        """As a JSON file has them: no tuples."""
        return {name: list(value) if isinstance(value, tuple) else value
                for name, value in asdict(self).items()}

    def differences(self, earlier: Dict[str, Any]) -> List[str]:
        """What has another value than in an earlier start, for a person.

        Args:
            earlier (dict): From :meth:`as_json`, read from a file.

        Returns:
            list[str]: For each argument that the training depends on.
        """
        now = self.as_json()
        return [f'{_option(name)} was {_shown(earlier.get(name))} and is '
                f'{_shown(now[name])}' for name in TRAINED_WITH
                if earlier.get(name) != now[name]]

    def command(self, **changes: Any) -> str:
        """The command line that asks for the same, to copy and run.

        Args:
            **changes: Other values of attributes.
        """
        values = {**asdict(self), **changes}
        words = ['python', '-m', 'dmae_mm', 'distill', values['images']]
        for teacher in values['teacher']:
            words += ['--teacher', teacher]
        for name in ('student', 'size', 'epochs', 'out', 'labels'):
            if values[name] is not None:
                words += [f'--{name}', str(values[name])]
        if values['to']:
            words += ['--to', *values['to']]
        if values['quick']:
            words.append('--quick')
        if values['cfg_options']:
            words.append('--cfg-options')
            words += [f'{key}={_value(value)}'
                      for key, value in values['cfg_options'].items()]
        return shlex.join(words)


def _chosen(images: PathLike, teachers: Sequence[str], student: str,
            quick: bool) -> str:
    """The folder of a result that was given none: the same each time."""
    names = [osp.basename(osp.abspath(images)), student]
    for teacher in teachers:  # NAME=FILE: the name tells more
        name = teacher.partition('=')[0].rstrip('/')
        names.append(osp.basename(name))
    text = '-'.join(names) + '-quick' * quick
    return osp.join('work_dirs', 'distill', re.sub(r'[^\w.-]+', '_', text))


def _option(name: str) -> str:
    return 'IMAGES' if name == 'images' else '--' + name.replace('_', '-')


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ', '.join(map(str, value))
    return 'not given' if value in (None, {}, False) else (
        'given' if value is True else str(value))


def _value(value: Any) -> str:
    """As ConfigOptions reads it."""
    if isinstance(value, (list, tuple)):
        return f'[{",".join(map(_value, value))}]'
    return str(value)
