"""The config of a result: derived, written for a person, read again."""
import os.path as osp
import textwrap
from typing import Any, Callable, Dict, List, Tuple

from mmengine.config import Config

from dmae_mm.datasets.image_survey import survey_images
from dmae_mm.host import read_config
from dmae_mm.launch import (complete_config, crop_size, static_problems,
                            together)
from dmae_mm.models.timm_vits import check_reachable

from .derive import derive
from .disk_space import check_disk_space
from .out_folder import OutFolder
from .readable_config import readable_config
from .student_choice import choose_student
from .teacher_choice import choose_teachers


def derived_config(folder: OutFolder, say: Callable[[str], None]) -> Config:
    """The config to train with.

    It is the one in the folder, if the training has begun or if a person has
    changed it; else a new one, which is written there. The folder is begun
    when nothing is wrong: a mistake leaves nothing behind.

    Args:
        folder (OutFolder): Of the result.
        say (Callable): Takes each line for a person.

    Returns:
        Config: Completed, and without static problems.

    Raises:
        ValueError: If the images or the arguments cannot be used, or the
            config has problems.
        OSError: If something cannot be read or written, or the disk has no
            room for the checkpoints.
    """
    changed = folder.config_changed()
    if changed:
        say(f'{folder.config_file} was changed after it was derived: it is '
            'taken as it is.')
    known = changed or (folder.checkpoint and osp.isfile(folder.config_file))
    if known:
        cfg, comments = read_config(folder.config_file), None
        problems = complete_config(cfg, {})
    else:
        cfg, comments = _derive(folder, say)
        options = folder.arguments.cfg_options
        problems = complete_config(
            cfg, options, auto_scale_lr=_scales_lr(cfg, options))
    cfg.work_dir, cfg.launcher = folder.path, 'none'
    problems = problems or static_problems(cfg)
    if problems:
        raise ValueError(f'the config: {together(problems)}')
    if not folder.checkpoint:
        check_disk_space(cfg)
    folder.begin()
    if not known:
        folder.write_config('\n'.join([*comments, '', readable_config(cfg)]))
        say(f'Config: {folder.config_file}')
    return cfg


def _scales_lr(cfg: Config, options: Dict[str, Any]) -> bool:
    """Whether options change the images per step, and not the learning rate
    for them."""
    images = ('train_dataloader.batch_size',
              'optim_wrapper.accumulative_counts')
    rate = ('optim_wrapper.optimizer.lr', 'auto_scale_lr')
    return 'auto_scale_lr' in cfg and any(
        name in images for name in options) and not any(
            name.startswith(rate) for name in options)


def _derive(folder: OutFolder, say: Callable[[str], None]
            ) -> Tuple[Config, List[str]]:
    """A new config, and the comments that go before it."""
    arguments = folder.arguments
    # A mistyped name, or a hub that cannot be reached, is told before the
    # images are opened, which may take a minute.
    teachers = choose_teachers(arguments.teacher)
    for teacher in teachers:
        if teacher.section.get('pretrained'):
            check_reachable(teacher.section['model_name'])
    student = choose_student(arguments.student)
    if arguments.size is not None:
        student.at(arguments.size)
    survey = survey_images(arguments.images)
    say(survey.table())
    derived = derive(
        survey,
        teachers,
        student,
        size=arguments.size,
        epochs=arguments.epochs,
        quick=arguments.quick)
    for line in survey.consequences(crop_size(derived.config) or 224):
        say(f'- {line}')
    say('The config:')
    for line in derived.reasons:
        say(f'- {line}')
    for line in derived.warnings:
        say(f'Warning: {line}')
    comments = ['Written by', f'  {arguments.command()}', '',
                'Train it with tools/train.py, or on several GPUs with '
                'tools/dist_train.sh. Why it is so:',
                *(f'- {line}' for line in derived.reasons),
                *(f'- Warning: {line}' for line in derived.warnings)]
    if arguments.cfg_options:
        options = ', '.join(arguments.cfg_options)
        comments.append(f'- Changed by --cfg-options: {options}')
    return derived.config, [
        part for line in comments for part in textwrap.wrap(
            line, 79, initial_indent='# ', subsequent_indent='#     ',
            break_long_words=False, break_on_hyphens=False) or ['#']
    ]
