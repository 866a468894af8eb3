"""Students of four kinds with and without a teacher, for three seeds.

On scikit-learn's handwritten digits, in parallel processes, with the quick
start's teacher. A study that was stopped goes on where it was when the same
command is given again. The page is written to docs/students-study.md.
"""
import os
import os.path as osp
import platform
import shlex
import sys
import textwrap
import time
from typing import Dict, List, Tuple

# A clone runs its own code, installed or not: see train.py.
sys.path.insert(0, osp.dirname(osp.dirname(osp.abspath(__file__))))

import dmae_mm  # noqa: E402, F401  First: it checks its hosts.
import numpy as np  # noqa: E402
import torch  # noqa: E402
from dmae_mm.evaluation.digits import write_digits  # noqa: E402
from dmae_mm.host import build, quietly  # noqa: E402
from dmae_mm.messages import one_line  # noqa: E402
from mmengine.config import Config  # noqa: E402
from studies.seeds import (command_line, interval, listed,  # noqa: E402
                           parse, table, versions)
from studies.study import run_all  # noqa: E402
from studies.study_jobs import (TEACHER, Job, fingerprint,  # noqa: E402
                                finished_result, load_config)

OUT_DIR = osp.join('work_dirs', 'students_study')
EPOCHS = 10
SCHEDULE = {
    'train_cfg.max_epochs': EPOCHS,
    'param_scheduler.1.end': EPOCHS,
    'default_hooks.checkpoint.interval': EPOCHS
}
WITHOUT = {**SCHEDULE, 'model.teacher': None, 'model.aligned_layers': []}
# No pre-training without teacher exists of it. One epoch at a learning rate
# of 0 gives its batch norms the statistics of random features.
UNTRAINED = {
    'train_cfg.max_epochs': 1,
    'default_hooks.checkpoint.interval': 1,
    'param_scheduler': [],
    'optim_wrapper.optimizer.lr': 0.
}
# Name, config, what is changed of it in the control, what both are called,
# seconds of a training in some unit.
STUDENTS: Dict[str, Tuple[str, dict, str, str, float]] = {
    'resnet': ('resnet-student_dmae_digits.py', WITHOUT,
               'ResNet-18-like, 64 px', 'SparK', 8),
    'mobilenet': ('mobilenet-student_features_digits.py', UNTRAINED,
                  'MobileNetV3-S-like, 64 px', 'untrained', 6),
    'swin': ('swin-student_dmae_digits.py', WITHOUT, 'Swin-like', 'SimMIM', 5),
    'timm': ('timm-student_dmae_digits.py', WITHOUT, 'ViT of timm', 'MAE', 3),
}
TEACHER_SEED = 0
PAGE = """# Students of four kinds, with and without a teacher

Does a teacher help students of other kinds than the paper's? Four small ones
were trained on handwritten digits with a teacher, and without.

## One command

```bash
{command}
```

{written}

## What came out

Accuracy on the test digits in percent, of frozen features averaged over space,
as {means}.
One digit is 0.28 points. Differences are taken seed by seed.
{recipe}
{table}

## How it was done

- **Data**: handwritten digits of scikit-learn, 1,437 to train on, 360 to test.
- **Teacher**: that of the quick start
  (`configs/digits/vit-teacher_mae_digits.py`, seed {teacher_seed}, 60 epochs),
  a ViT of 8 blocks of 96 channels. Its own accuracy:
  kNN {teacher_knn}, linear probe {teacher_linear}.
- **Students**: {epochs} epochs without labels; the configs are in
  `configs/digits/`. Both rows of a student have the same images and seeds. A
  seed decides the initial weights, the masks and the order of the images.
- **ResNet**, **Swin** and the **ViT of timm** reconstruct pixels, as in SparK,
  SimMIM and MAE. The teacher's loss comes on top, with weight 10.
- **MobileNet** learns from its teacher alone (`FeatureDistiller`). Its control
  is the untrained student: random weights, batch norms with the statistics of
  one epoch.

## Limits

- The control of MobileNet says whether the teacher teaches anything, not that
  it beats another pre-training.
- Nothing was tuned for these students, not the weight of 10 either. One
  exception: a trial of one epoch showed, on these test digits, that
  MobileNetV3's batch norms need a larger momentum than 0.01 in so few steps
  (kNN of 10%).
"""


def jobs() -> List[Job]:
    """Those of a seed: of each student the control, and with teacher."""
    teacher = {TEACHER: osp.join(OUT_DIR, 'teacher', 'final.pth')}
    found = []
    for name, (config, control, *_) in STUDENTS.items():
        if control is UNTRAINED:  # the loss is there, but changes nothing
            control = {**control, **teacher}
        found += [
            Job(f'{name}-control', config, control),
            Job(name, config, {**SCHEDULE, **teacher})
        ]
    return found


def prepare(seeds: int, data_dir: str,
            extra: dict) -> Tuple[Config, Dict[Tuple[int, str], Config]]:
    """Configs of the teacher and of all jobs, as (seed, name) -> config."""
    teacher = load_config(
        Job('teacher', 'vit-teacher_mae_digits.py', {}), TEACHER_SEED,
        data_dir, OUT_DIR, extra)
    teacher.needs = {}
    runs = {}
    for seed in range(seeds):
        for job in jobs():
            cfg = load_config(job, seed, data_dir,
                              osp.join(OUT_DIR, f'seed{seed}'), extra)
            cfg.needs = {}
            if cfg.model.teacher is not None:
                # A job whose teacher is trained anew runs anew, too.
                cfg.taught_by = fingerprint(teacher)
            runs[seed, job.name] = cfg
    return teacher, runs


def cost(cfg: Config) -> float:
    """Of a job, in some unit, for the estimate of the remaining time."""
    name = osp.basename(cfg.work_dir).removesuffix('-control')
    units = STUDENTS[name][-1] if name in STUDENTS else 5
    return units * cfg.train_cfg.max_epochs


def num_parameters(cfg: Config) -> int:
    """Of the backbone."""
    with quietly(), torch.device('cpu'):
        backbone = build(cfg.model.backbone, 'backbone')
    return sum(parameter.numel() for parameter in backbone.parameters())


def result_table(results: Dict[Tuple[int, str], dict],
                 parameters: Dict[str, int]) -> str:
    """Three rows a student, in Markdown."""
    seeds = sorted({seed for seed, _ in results})

    def values(name: str, metric: str) -> np.ndarray:
        return np.array([results[seed, name][metric] for seed in seeds])

    rows = []
    for name, (_, _, title, control, _) in STUDENTS.items():
        metrics = ('knn', 'linear')
        size = f'{parameters[name] / 1e6:.2f} M'
        with_it = [values(name, metric) for metric in metrics]
        without = [values(f'{name}-control', metric) for metric in metrics]
        rows += [
            (title, size, control, *(interval(each) for each in without)),
            (title, size, f'{control} + teacher' if control != 'untrained' else
             'teacher alone', *(interval(each) for each in with_it)),
            (title, '', 'difference',
             *(interval(ours - theirs, '+')
               for ours, theirs in zip(with_it, without)))
        ]
    return table(('student', 'parameters', 'learns from', 'kNN',
                  'linear probe'), rows)


def write_page(file: str, teacher: dict, results: Dict[Tuple[int, str], dict],
               parameters: Dict[str, int], command: str, processes: int,
               is_recipe: bool) -> str:
    """Write the page and return its table.

    Args:
        file (str): Where to.
        teacher (dict): What the teacher's job wrote.
        results (dict): What each job wrote, by (seed, name).
        parameters (dict[str, int]): Of each student's backbone.
        command (str): What was typed.
        processes (int): Trainings at a time.
        is_recipe (bool): Whether no options changed the trainings.

    Returns:
        str: The table.
    """
    result = result_table(results, parameters)
    seeds = len({seed for seed, _ in results})
    minutes = sum(each['seconds']
                  for each in (teacher, *results.values())) / 60
    packages = listed(versions())
    written = (
        f'{len(results) + 1} trainings, {seeds} seeds, {minutes:.0f} minutes '
        f'of trainings in all, {processes} at a time with one thread each, on '
        f'{os.cpu_count()} cores ({platform.machine()}), CPU only; '
        f'{packages}.')
    page = PAGE.format(
        command=command,
        written=textwrap.fill(written, 80, break_on_hyphens=False),
        teacher_seed=TEACHER_SEED,
        teacher_knn=teacher['knn'],
        teacher_linear=teacher['linear'],
        epochs=EPOCHS,
        means="mean ± half of the 95% interval (Student's t) over the seeds"
        if seeds > 1 else 'of one seed',
        recipe='' if is_recipe else
        '\n**Options of the command changed the trainings.**\n',
        table=result)
    os.makedirs(osp.dirname(osp.abspath(file)), exist_ok=True)
    with open(file, 'w') as stream:
        stream.write(page)
    return result


def main() -> None:
    parser = command_line(__doc__, seeds=3)
    parser.add_argument(
        '--page',
        help='file to write; defaults to docs/students-study.md, or, with '
        f'--cfg-options, to results.md in {OUT_DIR}')
    args = parse(parser)
    is_recipe = not args.cfg_options
    data_dir = write_digits()
    try:
        teacher, runs = prepare(args.seeds, data_dir, args.cfg_options)
    except (IndexError, KeyError, TypeError) as error:
        parser.error(f'--cfg-options: {one_line(error)}')
    start = time.time()
    first = {(TEACHER_SEED, 'teacher'): teacher}
    first.update((key, cfg) for key, cfg in runs.items()
                 if cfg.model.teacher is None)
    run_all(first, data_dir, args.processes, cost)
    run_all(runs, data_dir, args.processes, cost)
    minutes = (time.time() - start) / 60
    page = args.page or osp.join(
        *(['docs', 'students-study.md'] if is_recipe else
          [OUT_DIR, 'results.md']))
    result = write_page(
        page,
        finished_result(teacher),
        {key: finished_result(cfg) for key, cfg in runs.items()},
        {name: num_parameters(runs[0, name]) for name in STUDENTS},
        command='python ' + shlex.join(sys.argv),
        processes=args.processes,
        is_recipe=is_recipe)
    print(f'{result}\n{minutes:.0f} minutes. {page}')


if __name__ == '__main__':
    main()
