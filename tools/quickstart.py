"""The whole story in minutes, on a CPU: teacher, control, student, table.

On scikit-learn's handwritten digits: pre-train a small MAE teacher, distil it
into a smaller student with DMAE, train the same student without a teacher,
and compare all of them by nearest neighbours and a linear probe.
"""
import argparse
import json
import os.path as osp
import sys
from typing import List

ROOT = osp.dirname(osp.dirname(osp.abspath(__file__)))
OUT_DIR = osp.join('work_dirs', 'quickstart')

# A clone runs its own code, installed or not: see train.py.
sys.path.insert(0, ROOT)

print('Loading PyTorch and mmpretrain ...', flush=True)

import dmae_mm  # noqa: E402, F401  First: it checks its hosts.
from dmae_mm.evaluation.digits import (  # noqa: E402
    DATA_DIR, EpochLines, draw_curves, draw_reconstructions, evaluate, train,
    write_digits)
from dmae_mm.host import ConfigOptions, quietly, read_config  # noqa: E402
from dmae_mm.weights.safe_load import never_unpickle  # noqa: E402

from mmengine.config import Config  # noqa: E402
from mmengine.runner import find_latest_checkpoint  # noqa: E402
from mmpretrain import get_model  # noqa: E402

RUNS = [  # name, what is printed, config
    ('teacher', 'teacher (plain MAE)', 'vit-teacher_mae_digits.py'),
    ('mae', 'student, plain MAE', 'vit-student_mae_digits.py'),
    ('dmae', 'student, DMAE', 'vit-student_dmae_digits.py'),
]
ORDER = ['random', 'mae', 'dmae', 'teacher']


def load_config(file: str, out_dir: str, name: str, seed: int,
                options: dict) -> Config:
    cfg = read_config(osp.join(ROOT, 'configs', 'digits', file), options)
    cfg.work_dir = osp.join(out_dir, name)
    cfg.randomness.seed = seed
    cfg.train_dataloader.dataset.data_root = osp.join(DATA_DIR, 'train')
    cfg.merge_from_dict(options)
    if cfg.model.teacher is not None:
        cfg.model.teacher.checkpoint = find_latest_checkpoint(
            osp.join(out_dir, 'teacher'))
    return cfg


def print_table(rows: List[dict], titles: dict) -> None:
    print(f'\n{"":22}{"parameters":>11}{"kNN":>8}{"linear":>8}{"seconds":>9}')
    for row in rows:
        print(f'{titles[row["model"]]:22}{row["params"]:>11,}'
              f'{row["knn"]:>8.2f}{row["linear"]:>8.2f}'
              f'{row["seconds"]:>9.0f}')
    print('Accuracies in percent on 360 test images; one image is 0.28 '
          'points.\nParameters: of the encoder. Seconds: of its own '
          'pre-training.\n')


@never_unpickle()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--seed', type=int, default=0, help='defaults to 0')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        default={},
        help='changes all three configs, e.g. train_cfg.max_epochs=1')
    args = parser.parse_args()
    out_dir = osp.join(OUT_DIR, f'seed{args.seed}')
    write_digits()

    titles = {'random': 'student, untrained'}
    rows, models, curves = [], {}, {}
    for step, (name, title, file) in enumerate(RUNS, 1):
        print(f'[{step}/{len(RUNS)}] Training the {title}', flush=True)
        try:
            cfg = load_config(file, out_dir, name, args.seed, args.cfg_options)
        except ValueError as error:
            parser.error(str(error))
        progress = EpochLines(title)
        train(cfg, progress)
        # As anybody would load it: without the teacher's file.
        with quietly():
            model = get_model(
                cfg, pretrained=find_latest_checkpoint(cfg.work_dir))
        params = sum(p.numel() for p in model.backbone.parameters())
        rows.append(
            dict(
                model=name,
                params=params,
                **evaluate(cfg, model, DATA_DIR),
                seconds=round(progress.seconds, 1)))
        titles[name], models[title] = title, model
        curves[title] = progress.curves
        if name == 'mae':  # the control's weights before its first step
            untrained = get_model(cfg)
            untrained.load_state_dict(progress.initial_state)
            rows.append(
                dict(
                    model='random',
                    params=params,
                    **evaluate(cfg, untrained, DATA_DIR),
                    seconds=0.0))

    rows.sort(key=lambda row: ORDER.index(row['model']))
    print_table(rows, titles)
    pictures = [osp.join(out_dir, f'{name}.png')
                for name in ('reconstructions', 'loss_curves')]
    draw_reconstructions(models, DATA_DIR, pictures[0])
    draw_curves(curves, pictures[1])
    for folder in (out_dir, OUT_DIR):
        with open(osp.join(folder, 'results.json'), 'w') as stream:
            json.dump(dict(seed=args.seed, rows=rows), stream, indent=2)
    print(f'Table: {osp.join(OUT_DIR, "results.json")}\n'
          f'Pictures: {", ".join(pictures)}\n'
          f'Logs and checkpoints: {out_dir}\n'
          'Next: `source .venv/bin/activate`, then "Your own images" in '
          'README.md')


if __name__ == '__main__':
    main()
