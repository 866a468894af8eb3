"""From a folder of images to a small model in use."""
import os
import os.path as osp
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Callable, Dict, List, Optional, Sequence, Union

from mmengine.logging import MMLogger

from dmae_mm.engine.hooks.preemption_hook import Preempted
from dmae_mm.evaluation import probe_table
from dmae_mm.launch.measure import megabytes
from dmae_mm.launch.start import shorten_console
from dmae_mm.weights.safe_load import never_unpickle

from .arguments import Arguments, PathLike
from .compared_models import compare_models
from .derived_config import derived_config
from .labelled_images import LabelledImages
from .out_folder import OutFolder, is_inside
from .run_report import write_report
from .student_exports import check_formats, export_student
from .training import NotTrained, train

__all__ = ['DistillResult', 'NotTrained', 'distill']


@dataclass
class DistillResult:
    """What :func:`distill` has made.

    Attributes:
        out (str): The folder that all of it is in.
        config (str): The config, which ``tools/train.py`` takes.
        checkpoint (str): The last checkpoint of the training.
        exports (dict[str, str]): For each format, the file or folder: 'timm'
            or, for a student that timm cannot build, the class whose names
            ``student.safetensors`` has; and those that were asked for.
        usage (dict[str, str]): For each format, the code that uses it.
        evaluation (dict | None): What ``evaluation.json`` holds; None
            without labels, or where it failed.
        report (str | None): The page; None where it failed.
        failed (list[str]): What could not be made after the training, and
            why. The same call makes it once that is mended.
    """
    out: str
    config: str
    checkpoint: str
    exports: Dict[str, str] = field(default_factory=dict)
    usage: Dict[str, str] = field(default_factory=dict)
    evaluation: Optional[Dict[str, Any]] = None
    report: Optional[str] = None
    failed: List[str] = field(default_factory=list)


@never_unpickle()
def distill(images: PathLike,
            teacher: Union[PathLike, Sequence[PathLike]],
            student: str,
            *,
            size: Optional[int] = None,
            epochs: Optional[int] = None,
            out: Optional[PathLike] = None,
            labels: Optional[PathLike] = None,
            to: Union[str, Sequence[str]] = (),
            quick: bool = False,
            cfg_options: Optional[Dict[str, Any]] = None) -> DistillResult:
    """Train a small model to repeat what a big one computes, and hand it out.

    It looks at the images, derives a config, writes it to ``OUT/config.py``
    and checks it, trains, evaluates where there are labels, exports, and
    writes a report. The same call again goes on with what was interrupted,
    and makes what is missing; where nothing is, it says so.

    ::

        from dmae_mm import distill

        result = distill('photos', 'vit_base_patch14_dinov2.lvd142m',
                         'vit_tiny_patch16_224', labels='photos_by_class')
        print(result.usage['timm'])

    Args:
        images (str | Path): Folder of the images to train on, sub-folders
            included. They need no labels.
        teacher (str | Path | Sequence): A name of timm, NAME=FILE for a file
            of its weights, a FILE, a FOLDER of Hugging Face, or CONFIG=FILE
            of mmpretrain; or several, which all teach.
        student (str): A name of timm or mmpretrain.
        size (int, optional): Height and width of the student's images, in
            pixels. Defaults to its own.
        epochs (int, optional): How often each image is seen. Defaults to
            the recipe's, 100, or 3 if ``quick``.
        out (str | Path, optional): Folder of the result. Defaults to one in
            ``work_dirs/distill``, named after images, student and teacher.
        labels (str | Path, optional): Held out images, one sub-folder a
            class, in ``train/`` and ``test/`` or else divided in halves: see
            :class:`LabelledImages`. Defaults to None: nothing is evaluated.
        to (str | Sequence[str]): Formats to export the student to, beside
            timm's. Defaults to ().
        quick (bool): Rehearse with few images and epochs. Defaults to False.
        cfg_options (dict, optional): Changes of the derived config, by dotted
            names. Defaults to none.

    Returns:
        DistillResult: What was made, now or before.

    Raises:
        ImportError: If a package that an argument asks for is missing.
        OSError: If a file is not there, or cannot be read or written.
        ValueError: If an argument cannot be used, or ``out`` holds a result
            of other arguments. Nothing is changed then.
        WorkDirInUse: If another process is at work in ``out``.
        NotTrained: If the checks before the training found something, or
            the training ended in an error.
        Preempted: If a signal, such as that of Ctrl-C, ended the training:
            a ``SystemExit``. The same call goes on.
    """
    say: Callable[[str], None] = partial(print, flush=True)
    # Before a run has its own, this logger has what is said of its parts.
    shorten_console(MMLogger.get_current_instance(), brief=True)
    arguments = Arguments.checked(images, teacher, student, size, epochs, out,
                                  labels, to, quick, cfg_options)
    folder = OutFolder(arguments)
    check_formats(folder)
    labelled = None if labels is None else LabelledImages.of(arguments.labels)
    if labelled is not None:
        say(f'Labels: {labelled.note}')
        if is_inside(arguments.labels, arguments.images):
            say('Warning: --labels lies inside IMAGES, so that the images '
                'that are classified are trained on as well, unlabelled.')
    try:
        checkpoint = folder.trained()
        if checkpoint is None:
            checkpoint = train(derived_config(folder, say), folder, say)
        else:
            folder.begin()
            say(f'{folder.path}: the training is finished, {checkpoint}.')
        return _finish(folder, checkpoint, labelled, say)
    except (KeyboardInterrupt, Preempted):
        say(f'Interrupted. The same command goes on:\n'
            f'  {arguments.command()}')
        raise


def _finish(folder: OutFolder, checkpoint: str,
            labelled: Optional[LabelledImages],
            say: Callable[[str], None]) -> DistillResult:
    """All that is made of a trained student; what fails loses no other."""
    result = DistillResult(folder.path, folder.config_file, checkpoint)
    before = folder.recall('made')

    def attempt(what: str, make: Callable, *args: Any) -> Any:
        try:
            return make(*args)
        except (ImportError, OSError, ValueError, RuntimeError) as error:
            result.failed.append(f'{what}: {error}')
            say(f'{what} failed: {error}')

    if labelled is not None:
        result.evaluation = attempt('The evaluation', compare_models, folder,
                                    checkpoint, labelled, say)
        if result.evaluation is not None:
            say(probe_table(result.evaluation['rows']))
    formats = folder.arguments.to
    for to in (formats if 'timm' in formats else (None, *formats)):
        made = attempt(f'The export to {to or "a file"}', export_student,
                       folder, checkpoint, to, say)
        if made is not None:
            result.exports[made['to']] = osp.join(folder.path, made['file'])
            result.usage[made['to']] = made['usage']
    result.report = attempt('The report', write_report, folder,
                            before != folder.recall('made'),
                            result.evaluation)
    _conclude(result, folder, say)
    return result


def _conclude(result: DistillResult, folder: OutFolder,
              say: Callable[[str], None]) -> None:
    """Say what there is, how it is used, and what is missing."""
    say(f'\nIn {result.out}:')
    there = [result.config, result.checkpoint, *result.exports.values(),
             osp.join(result.out, 'evaluation.json'), result.report]
    for path in filter(None, dict.fromkeys(there)):
        if osp.exists(path):
            say(f'  {osp.relpath(path, result.out):24} '
                f'{megabytes(_size(path)):>10}')
    for name, usage in result.usage.items():
        say(f'\nThe student in {name}:')
        for line in usage.splitlines():
            say(f'  {line}')
    if result.failed:
        say('\nNot made:')
        for failure in result.failed:
            say(f'- {failure}')
        say('Once that is mended, the same command makes it, without '
            f'training again:\n  {folder.arguments.command()}')


def _size(path: str) -> int:
    """Bytes of a file, or of all in a folder."""
    return osp.getsize(path) if osp.isfile(path) else sum(
        osp.getsize(osp.join(parent, name))
        for parent, _, names in os.walk(path) for name in names)
