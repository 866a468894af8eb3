"""The paper's claims in the small: 29 trainings for each of five seeds.

On scikit-learn's handwritten digits, in parallel processes. A study that was
stopped goes on where it was when the same command is given again. The table,
the figures and what they say are written to docs/results.md.
"""
import argparse
import os.path as osp
import shlex
import sys
import time
from concurrent.futures import FIRST_COMPLETED, wait
from typing import Callable, Optional

# A clone runs its own code, installed or not: see train.py.
ROOT = osp.dirname(osp.dirname(osp.abspath(__file__)))
sys.path.insert(0, ROOT)

import dmae_mm  # noqa: E402, F401  First: it checks its hosts.
from dmae_mm.datasets import (balanced_subset, class_images,  # noqa: E402
                              write_list)
from dmae_mm.evaluation.digits import write_digits  # noqa: E402
from dmae_mm.messages import one_line  # noqa: E402
from mmengine.config import Config  # noqa: E402
from studies.seeds import (command_line, one_thread_each,  # noqa: E402
                            parse)
from studies.study_jobs import (all_jobs, fingerprint,  # noqa: E402
                                finished_result, load_config, run_job)
from studies.study_page import write_page  # noqa: E402

OUT_DIR = osp.join('work_dirs', 'study')


def prepare(seeds: int, data_dir: str, out_dir: str, extra: dict) -> dict:
    """Configs of all jobs, as (seed, name) -> config, and what they need."""
    runs = {}
    for seed in range(seeds):
        for job in all_jobs():
            cfg = load_config(job, seed, data_dir,
                              osp.join(out_dir, f'seed{seed}'), extra)
            # A job whose teacher is trained anew runs anew, too.
            cfg.needs = {
                name: fingerprint(runs[seed, name])
                for name in job.needs
            }
            runs[seed, job.name] = cfg
    return runs


def cost(cfg: Config) -> float:
    """Of a job, in some unit, for the estimate of the remaining time."""
    arch = cfg.model.backbone.arch
    size = arch.num_layers * arch.embed_dims
    visible = 1 - cfg.model.backbone.get('mask_ratio', 0)
    images = 140 if cfg.train_dataloader.dataset.get('ann_file') else 1437
    return cfg.train_cfg.max_epochs * images * (1 + size / 192 * visible)


def run_all(runs: dict,
            data_dir: str,
            processes: int,
            cost: Callable[[Config], float] = cost,
            done: Optional[set] = None,
            record: Callable[[tuple, dict], None] = lambda key, result: None,
            run: Callable[[Config, str], dict] = run_job) -> None:
    """Run what is not finished, each job when those it needs are.

    Args:
        runs (dict): Config of each job by (seed, name). Jobs of all seeds
            may need one whose seed is 'once'.
        data_dir (str): Folder of the images.
        processes (int): Jobs at a time.
        cost (callable): Of a config, in some unit.
        done (set, optional): Keys of the finished jobs. Defaults to None:
            those that have a result in their folder.
        record (callable): Gets key and result of each job that ends.
        run (callable): Runs a job.
    """
    if done is None:
        done = {key for key, cfg in runs.items() if finished_result(cfg)}
    done = {*done}
    left = [key for key in runs if key not in done]
    print(f'{len(runs)} trainings, {len(done)} of them finished before, '
          f'{processes} at a time', flush=True)
    units_left = sum(cost(runs[key]) for key in left)
    units_done = seconds = 0  # of the finished, one after the other
    running = {}  # each job, and when it was started
    with one_thread_each(processes) as pool:
        while left or running:
            ready = [
                key for key in left
                if all((key[0], name) in done or ('once', name) in done
                       for name in runs[key].needs)
            ]
            for key in ready[:processes - len(running)]:
                left.remove(key)
                future = pool.submit(run, runs[key], data_dir)
                running[future] = key, time.time()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                key, started = running.pop(future)
                seed, name = key
                try:
                    result = future.result()
                except Exception:
                    print(f'seed {seed} {name} failed; its log is in '
                          f'{runs[key].work_dir}')
                    raise
                done.add(key)
                record(key, result)
                units_done += cost(runs[key])
                units_left -= cost(runs[key])
                seconds += time.time() - started
                minutes = seconds / units_done * units_left / processes / 60
                accuracies = '  '.join(
                    f'{metric} {result[metric]:6.2f}'
                    for metric in ('knn', 'linear', 'top1')
                    if metric in result)
                print(
                    f'[{len(done):>3}/{len(runs)}] seed {seed} {name:40}'
                    f'{accuracies}  {result["seconds"]:4.0f} s; about '
                    f'{minutes:3.0f} min left',
                    flush=True)


def main() -> None:
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument('--data', default='digits')
    if data.parse_known_args()[0].data != 'digits':
        from studies import photograph_study  # which imports this
        photograph_study.main()
        return
    parser = command_line(__doc__, seeds=5)
    parser.add_argument(
        '--data',
        default='digits',
        help='digits, or photographs: cifar10, fashion-mnist, or a folder '
        'with train/CLASS and test/CLASS; see --data cifar10 --help')
    parser.add_argument(
        '--held-out',
        action='store_true',
        help='leave the test digits alone and evaluate on 288 of the training '
        'digits: for changes of the recipe')
    parser.add_argument(
        '--docs',
        help='folder for results.md and its images; defaults to docs, or, '
        'where the recipe is another, to the folder of the runs')
    args = parse(parser, least_seeds=2)

    is_recipe = not (args.held_out or args.cfg_options)
    data_dir = write_digits(args.held_out)
    out_dir = OUT_DIR + '_held_out' * args.held_out
    images = class_images(osp.join(data_dir, 'train'))
    for seed in range(args.seeds):
        write_list(
            osp.join(data_dir, f'tenth_seed{seed}.txt'),
            balanced_subset(images, percent=10, seed=seed),
            force=False)
    try:
        runs = prepare(args.seeds, data_dir, out_dir, args.cfg_options)
    except (IndexError, KeyError, TypeError) as error:
        parser.error(f'--cfg-options: {one_line(error)}')
    start = time.time()
    run_all(runs, data_dir, args.processes)
    minutes = (time.time() - start) / 60
    results = {key: finished_result(cfg) for key, cfg in runs.items()}
    page = write_page(
        results,
        args.docs or ('docs' if is_recipe else out_dir),
        command='python ' + shlex.join(sys.argv),
        processes=args.processes,
        is_recipe=is_recipe)
    print(f'{minutes:.0f} minutes. {page}')


if __name__ == '__main__':
    main()
