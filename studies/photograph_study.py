"""The study on photographs: which teacher, objective and student help.

`python studies/study.py --data cifar10`, or with a folder: some 80 trainings
for each of three seeds. A study that was stopped goes on where it was when
the same command is given again, also where only its results are left, in
studies/results. The page is written to docs/results-photographs.md.
"""
import ast
import hashlib
import json
import os
import os.path as osp
import platform
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterable, Tuple

from dmae_mm.files import write_whole
from dmae_mm.messages import first_few, one_line
from dmae_mm.models.teachers.teacher_section import teacher_section
from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint

from studies.photograph_jobs import (DEFAULTS, ONCE, PhotographJob, Setting,
                                     all_jobs, choice_jobs, chosen,
                                     gflop_per_image, load, teachers)
from studies.photograph_page import write_page
from studies.seeds import command_line, parse, versions
from studies.study import run_all
from studies.study_data import name_of, prepare
from studies.study_jobs import finished_result, fingerprint, run_job

ROOT = Path(__file__).parents[1]
RESULTS = 'studies/results'
# What a training and its evaluation are made of.
CODE = ('dmae_mm/datasets', 'dmae_mm/engine', 'dmae_mm/evaluation',
        'dmae_mm/models', 'dmae_mm/weights', 'studies/study_jobs.py',
        'studies/photograph_jobs.py', 'studies/study_data.py')
Key = Tuple[Any, str]  # seed, or ONCE, and name of the job


def run_photographs(cfg: Config, data_dir: str) -> dict:
    """As :func:`run_job`, in a process that knows the studies' classes.

    A job that was stopped goes on from its last checkpoint, if there is one:
    only the teacher, which takes hours, writes any before its end. Its
    seconds are then those since.
    """
    mark, file = fingerprint(cfg), Path(cfg.work_dir, 'begun.txt')
    resume = file.is_file() and file.read_text() == mark and bool(
        find_latest_checkpoint(cfg.work_dir))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(mark)
    return run_job(cfg, data_dir, resume)


def code_marks(root: Path = ROOT) -> Dict[str, str]:
    """What tells versions of the code apart: comments do not."""
    marks = {}
    for part in CODE:
        path = root / part
        digest = hashlib.sha256()
        for file in [path] if path.is_file() else sorted(path.rglob('*.py')):
            tree = ast.parse(file.read_text(encoding='utf-8'))
            for node in ast.walk(tree):
                body = getattr(node, 'body', None)
                if isinstance(body, list) and body and isinstance(
                        body[0], ast.Expr) and isinstance(
                            body[0].value, ast.Constant):
                    body[0] = ast.Pass()  # a docstring
            digest.update(file.relative_to(root).as_posix().encode())
            digest.update(ast.dump(tree).encode())
        marks[part] = digest.hexdigest()[:12]
    return marks


def machine() -> str:
    """Of this process."""
    return (f'{os.cpu_count()} cores ({platform.machine()}, '
            f'{platform.system()}), CPU only')


class Results:
    """The file of a study's results, whole after every job.

    Args:
        file (str): Where it is or will be.
        data (dict): What ``study_data.prepare`` wrote of the images.
        anew (bool): Whether to forget what it holds. Defaults to False.

    Attributes:
        jobs (dict[str, dict]): Result by 'seed0/mae'.

    Raises:
        ValueError: If it was begun with other code, versions or images.
    """

    def __init__(self, file: str, data: dict, anew: bool = False) -> None:
        self.file = file
        self.head = dict(
            data=data, versions=versions(), code=code_marks())
        self.machines = [machine()]
        self.jobs: Dict[str, dict] = {}
        if anew or not osp.isfile(file):
            return
        with open(file) as stream:
            found = json.load(stream)
        changed = [
            f'{name} ({found[part].get(name)}, now {now.get(name)})'
            for part, now in self.head.items()
            for name in sorted({*found[part], *now})
            if found[part].get(name) != now.get(name)
        ]
        if changed:
            raise ValueError(
                f'{file} was begun with other code, packages or images: '
                f'{first_few(changed, 8)}. Two halves that differ are not '
                'one study. Go back to what it was begun with, or begin it '
                'anew: --anew.')
        self.jobs = found['jobs']
        self.machines = list(
            dict.fromkeys([*found['machines'], machine()]))

    def finished(self, runs: Dict[Key, Config]) -> set:
        """Keys of the jobs whose results are those of these configs.

        What only a folder holds, of a study that was killed between the two,
        is taken over.
        """
        for key, cfg in runs.items():
            found = finished_result(cfg)
            if found and self.result(key).get('fingerprint') != found[
                    'fingerprint']:
                self.record(key, found, cfg)
        return {
            key
            for key, cfg in runs.items()
            if self.result(key).get('fingerprint') == fingerprint(cfg)
        }

    def result(self, key: Key) -> dict:
        """What a job wrote, or an empty dict."""
        return self.jobs.get(_path(key), {})

    def record(self, key: Key, result: dict, cfg: Config) -> None:
        """Keep a result, and write all."""
        self.jobs[_path(key)] = dict(
            result,
            tflop=round(tflop(cfg, self.head['data']), 3),
            machine=self.machines.index(machine()))
        with write_whole(self.file) as file, open(file, 'w') as stream:
            json.dump(
                dict(self.head, machines=self.machines, jobs=self.jobs),
                stream,
                indent=1)

    def of(self, runs: Iterable[Key]) -> Dict[Key, dict]:
        """Those of some jobs."""
        return {key: self.result(key) for key in runs}


def _path(key: Key) -> str:
    seed, name = key
    return f'{seed if seed == ONCE else f"seed{seed}"}/{name}'


def num_images(cfg: Config, data: dict) -> int:
    """Images of an epoch."""
    dataset = cfg.train_dataloader.dataset
    percent = dataset.get('ann_file', '').rpartition('/')[2]
    if percent:
        return round(
            int(percent.removesuffix('pct.txt')) / 100 * data['train'])
    return data['all' if dataset.data_root.endswith('all') else 'train']


def tflop(cfg: Config, data: dict) -> float:
    """Of a whole training."""
    return (gflop_per_image(cfg) * num_images(cfg, data) *
            cfg.train_cfg.max_epochs / 1000)


def configs(jobs: Iterable[PhotographJob], seeds: int, setting: Setting,
            head: dict) -> Dict[Key, Config]:
    """Configs of all jobs, each with the marks of all that it depends on.

    Args:
        jobs (Iterable[PhotographJob]): Each behind those that it needs.
        seeds (int): How many.
        setting (Setting): Where everything lies, and what was chosen.
        head (dict): Of :class:`Results`.

    Returns:
        dict: By (seed, name), or (ONCE, name).
    """
    digests = head['data']['digests']
    runs: Dict[Key, Config] = {}
    jobs = list(jobs)
    for seed in range(seeds):
        for job in jobs:
            key = (ONCE if job.once else seed, job.name)
            if key in runs:
                continue
            cfg = load(job, seed, setting)
            cfg.code = head['code']
            # The choice has other splits, and the same teacher.
            cfg.images = [
                digests[split] for split in (
                    ('all', ) if job.name == 'teacher' else ('train', 'test'))
            ]
            # A job whose teacher is trained anew runs anew, too.
            cfg.needs = {
                name: fingerprint(
                    runs[(seed if (seed, name) in runs else ONCE, name)])
                for name in job.needs
            }
            runs[key] = cfg
    return runs


def still_to_run(runs: Dict[Key, Config], finished: set) -> set:
    """Jobs without result, and those whose checkpoints they need and that
    are not there: of a study that goes on elsewhere."""
    wanted = [key for key in runs if key not in finished]
    found = set(wanted)
    while wanted:
        seed, _ = key = wanted.pop()
        for name in runs[key].needs:
            other = (seed, name) if (seed, name) in runs else (ONCE, name)
            if other not in found and not (finished_result(
                    runs[other]) and osp.isfile(
                        osp.join(runs[other].work_dir, 'final.pth'))):
                found.add(other)
                wanted.append(other)
    return found


def run(runs: Dict[Key, Config], results: Results, data_dir: str,
        processes: int) -> None:
    """Run what is left, and keep each result."""
    left = still_to_run(runs, results.finished(runs))
    data = results.head['data']
    run_all(
        runs,
        data_dir,
        processes,
        # Each evaluation costs about as much as 1 TFLOP.
        cost=lambda cfg: tflop(cfg, data) + 1,
        done={*runs} - left,
        record=lambda key, result: results.record(key, result, runs[key]),
        run=run_photographs)


def choose(setting: Setting, whole: str, results: Results,
           processes: int) -> dict:
    """Run the grid on held-out images and return the best values.

    The teacher comes first, and sees all training images without labels. Its
    own accuracy is that on the test images; no choice depends on it.

    Args:
        setting (Setting): Of the held-out images.
        whole (str): Folder of the images that are not held out.
        results (Results): Of the choice.
        processes (int): Trainings at a time.

    Returns:
        dict: As ``DEFAULTS``.
    """
    teacher = teachers(setting)[0]
    jobs = choice_jobs(setting)
    runs = configs([teacher, *jobs], 1, setting, results.head)
    first = configs([teacher], 1, replace(setting, data_dir=whole),
                    results.head)
    run(first, results, whole, processes)
    run(runs, results, setting.data_dir, processes)
    return chosen(jobs,
                  {job.name: results.result((0, job.name)) for job in jobs})


def read_choices(data: str) -> dict:
    """What ``--choose`` wrote, or the defaults."""
    try:
        with open(osp.join(RESULTS, f'{name_of(data)}_choices.json')) as file:
            return json.load(file)
    except FileNotFoundError:
        return DEFAULTS


def main() -> None:
    parser = command_line(__doc__, seeds=3)
    parser.add_argument(
        '--data', help='cifar10, fashion-mnist, or a folder with train/CLASS '
        'and test/CLASS')
    parser.add_argument(
        '--teacher',
        help='a teacher trained by others, as of tools/distill.py: a name of '
        'timm, NAME=FILE, a file or a folder')
    parser.add_argument(
        '--held-out',
        action='store_true',
        help='leave the test images alone and evaluate on 2,000 of the '
        'training images: for changes of the recipes')
    parser.add_argument(
        '--choose',
        action='store_true',
        help='choose loss weights and learning rates on those 2,000, with '
        f'one seed, and write them to {RESULTS}/DATA_choices.json')
    parser.add_argument(
        '--anew',
        action='store_true',
        help='forget the results of a study that was begun with other code')
    parser.add_argument(
        '--docs',
        help='folder for results-photographs.md and its images; defaults to '
        'docs, or, where the study is another, to the folder of the runs')
    args = parse(parser, least_seeds=1 if '--choose' in sys.argv else 2)
    is_recipe = not (args.held_out or args.choose or args.cfg_options)
    name = name_of(args.data)
    out_dir = osp.join('work_dirs',
                       f'study_{name}' + '_changed' * bool(args.cfg_options))
    held_out = args.held_out or args.choose
    here = out_dir + '_held_out' * held_out
    try:
        external = teacher_section(args.teacher) if args.teacher else None
        whole = prepare(args.data)
        images = prepare(args.data, held_out)
        results = Results(
            osp.join(RESULTS, f'{name}.json') if is_recipe else osp.join(
                here, 'choices.json' if args.choose else 'results.json'),
            described(images), args.anew)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    setting = Setting(
        images,
        here,
        osp.join(whole, 'all'),
        osp.join(out_dir, ONCE),
        num_classes=len(results.head['data']['classes']),
        num_train=results.head['data']['train'],
        choices=DEFAULTS if args.choose else read_choices(args.data),
        external=external,
        extra=args.cfg_options)
    if args.choose:
        file = osp.join(RESULTS, f'{name}_choices.json')
        best = choose(setting, whole, results, args.processes)
        with write_whole(file) as unfinished, open(unfinished,
                                                   'w') as stream:
            json.dump(best, stream, indent=1)
        print(f'{json.dumps(best)}\n{file}')
        return
    try:
        jobs = all_jobs(setting)
        runs = configs(jobs, args.seeds, setting, results.head)
    except (IndexError, KeyError, TypeError) as error:
        parser.error(f'--cfg-options: {one_line(error)}')
    run(runs, results, images, args.processes)
    page = write_page(
        jobs,
        results.of(runs),
        results.head,
        results.machines,
        args.docs or ('docs' if is_recipe else here),
        command='python ' + shlex.join(sys.argv),
        processes=args.processes,
        is_recipe=is_recipe)
    print(page)


def described(data_dir: str) -> dict:
    """What ``study_data.prepare`` wrote of the images."""
    with open(osp.join(data_dir, 'images.json')) as file:
        return json.load(file)
