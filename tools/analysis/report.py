"""Write what is known of runs into one page, which any browser opens.

Curves of every logged value, the pictures, what differs between the configs,
the environment, and what is damaged. The page loads nothing from elsewhere.
Runs may still be going on.

    python tools/analysis/report.py WORK_DIR [WORK_DIR ...] --out report.html
"""
import argparse
import os.path as osp
import sys
from pathlib import Path

# A clone runs its own code, installed or not: see train.py.
sys.path.insert(0, str(Path(__file__).parents[2]))

try:
    from dmae_mm.evaluation.report import Run, what_is_wrong, write_page
except ImportError as error:
    sys.exit(str(error))  # says what to install


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'work_dirs', nargs='+', metavar='WORK_DIR', type=Path,
        help='work dir of a run, as given to tools/train.py')
    parser.add_argument(
        '--out',
        default='report.html',
        type=Path,
        help='the page; one that is there is replaced (default: report.html)')
    parser.add_argument(
        '--max-pictures-mb',
        type=float,
        default=20,
        metavar='MB',
        help='most megabytes of pictures in the page; of more, some steps '
        'are left out (default: 20)')
    return parser


def main() -> None:
    parser = build_parser()
    args = parser.parse_args()
    if not args.max_pictures_mb >= 0:
        parser.error(f'--max-pictures-mb {args.max_pictures_mb} must be 0 or '
                     'above')
    if not args.out.absolute().parent.is_dir() or args.out.is_dir():
        parser.error(f'--out {args.out}: there is no folder '
                     f'{args.out.absolute().parent} for a file of that name')
    # By their real paths, so that none is there twice.
    paths = list({path.resolve(): path for path in args.work_dirs}.values())
    above = osp.commonpath([path.resolve().parent for path in paths])
    problems = {path: what_is_wrong(path) for path in paths}
    missing = [problem for path, problem in problems.items()
               if problem and not path.exists()]
    if missing:
        parser.error('; '.join(missing))
    runs, left_out = [], []
    for path, problem in problems.items():
        if not problem:
            name = str(path.resolve().relative_to(above))
            run = Run(path, name)
            for note in run.notes:
                print(f'{name}: {note}')
            if run.starts:
                runs.append(run)
                continue
            problem = f'{path} has no logged values yet'
        left_out.append(problem)
        print(f'Left out: {problem}.', file=sys.stderr)
    if not runs:
        sys.exit('No page is written: there is no run to report on.')
    try:
        write_page(runs, args.out, int(args.max_pictures_mb * 1e6), left_out)
    except OSError as error:
        sys.exit(f'No page is written: {error}')
    print(f'{args.out}: {len(runs)} run{"s" * (len(runs) > 1)}, '
          f'{args.out.stat().st_size / 1e6:.1f} MB')


if __name__ == '__main__':
    main()
