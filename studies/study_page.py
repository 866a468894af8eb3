"""Writes docs/results.md: tables, figures and what they allow to say."""
import os
import os.path as osp
import platform
import textwrap
from typing import Callable, Dict, List, Sequence, Tuple

import numpy as np
from matplotlib.figure import Figure

from .seeds import half_width, interval, listed, table, versions

# Value of a metric of a job for each seed: values('dmae', 'knn').
Values = Callable[[str, str], np.ndarray]

FROZEN = [  # job, what it is
    ('mae', 'plain MAE'),
    ('dmae', 'DMAE: 3/4 of the depth, weight 10, mask 75%'),
    ('dmae-weight1', 'DMAE, weight 1 (the paper\'s)'),
    ('dmae-weight3', 'DMAE, weight 3'),
    ('dmae-weight30', 'DMAE, weight 30'),
    ('dmae-depth25', 'DMAE, aligned at 1/4 of the depth'),
    ('dmae-depth50', 'DMAE, aligned at 1/2'),
    ('dmae-depth100', 'DMAE, aligned at the last block'),
    ('dmae-light-decoder', 'DMAE, light decoder (`CrossAttentionDecoder`)'),
    ('mae-mask90', 'plain MAE, mask 90%'),
    ('dmae-mask90', 'DMAE, mask 90%'),
    ('mae-mask95', 'plain MAE, mask 95%'),
    ('dmae-mask95', 'DMAE, mask 95%'),
    ('dmae-finetuned-teacher', 'DMAE, from the fine-tuned teacher'),
    ('teacher', 'the teacher (plain MAE, 8 blocks of 96)'),
]
TRAINED = [
    ('scratch', 'labels alone, from scratch'),
    ('mae', 'plain MAE, then labels'),
    ('dmae', 'DMAE, then labels'),
    ('dmae+logits', 'DMAE, then labels + fine-tuned teacher\'s logits'),
]
# With a tenth of the labels only.
TRAINED_TENTH = [
    TRAINED[0],
    ('scratch+logits', '+ fine-tuned teacher\'s logits'),
    ('scratch+hard-logits', '+ its most probable class'),
    ('scratch+features', '+ its features of all patches'),
    *TRAINED[1:],
]
METRICS = dict(
    knn='kNN',
    linear='linear probe',
    full='fine-tuned, all labels',
    tenth='fine-tuned, a tenth')
# Claim, what is better and than what ('a - b': the difference of two jobs), by
# which metrics.
FEATURES = ('knn', 'linear')
CLAIMS = [
    ('DMAE is better than plain MAE', 'dmae', 'mae', tuple(METRICS)),
    ('It is with the paper\'s loss weight of 1', 'dmae-weight1', 'mae',
     FEATURES),
    ('The pre-trained teacher is better than the fine-tuned one, in DMAE',
     'dmae', 'dmae-finetuned-teacher', (*FEATURES, 'full')),
    *(('DMAE, then labels, is better than labels with the fine-tuned '
       f'teacher\'s {name}', 'dmae', f'scratch+{other}', ('tenth', ))
      for other, name in (('logits', 'logits'),
                          ('hard-logits', 'most probable class'),
                          ('features', 'features'))),
    ('The fine-tuned teacher\'s logits help after DMAE, too', 'dmae+logits',
     'dmae', ('full', 'tenth')),
    ('DMAE loses less than plain MAE from mask 75% to 95%',
     'dmae-mask95 - dmae', 'mae-mask95 - mae', FEATURES),
    ('DMAE at mask 95% is better than plain MAE at 75%', 'dmae-mask95', 'mae',
     FEATURES),
    ('3/4 of the depth is better than the last block', 'dmae',
     'dmae-depth100', FEATURES),
    ('The paper\'s decoder is better than the light one', 'dmae',
     'dmae-light-decoder', FEATURES),
]
DISCUSSION = '## Discussion (written by hand)'
OTHER = """**This is not the recipe that the text describes**: it was changed
by options of the command.

"""
PAGE = """# The paper's claims in the small

Does DMAE keep what its paper promises? This study asks on handwritten digits,
with {seeds} seeds and a teacher for each.

## One command

```bash
{command}
```

{written}

## What came out

Differences are in points of accuracy. "Holds" means that the 95% interval lies
above 0. There are many intervals, and no correction for that.

{said}

## Frozen features

{frozen}

![Masks, depths, weights](images/study_frozen.png)

## Trained with labels

{trained}

![Accuracies with all labels and with a tenth](images/study_finetuning.png)

## How it was done

- **Data**: digits of scikit-learn, 1,437 to train on, 360 to test, 32 px,
  patches of 4 px. One test digit is 0.28 points.
- **Models**: the student has 4 blocks of 48 channels, the teacher 8 of 96. The
  configs are in `configs/digits/`, what differs from them in
  `studies/study_jobs.py`.
- **Pre-training**: without labels, 20 epochs of a student, 60 of the teacher.
- **Labels**: 20 epochs (50 with a tenth of the labels, 14 of each class). From
  scratch twice as long, so that all students of the second table see as many
  epochs. With a tenth, the fine-tuned teacher knows no more of them. With all
  labels, supervised distillation from scratch is left out: labels alone leave
  it less than two points to gain.
- **Accuracy**: in percent on the test digits, after the last epoch, as mean ±
  half of the 95% interval (Student's t) over the seeds. A seed decides the
  initial weights, the masks, the order of the images, the teacher and the
  tenth of the labels. Differences are taken seed by seed.

"""


def claims(values: Values) -> List[Tuple[str, str, np.ndarray]]:
    """Claim, what it is measured by, difference in points for each seed."""

    def value(names: str, metric: str) -> np.ndarray:
        first, *second = (values(name, metric) for name in names.split(' - '))
        return first - second[0] if second else first

    return [(claim, METRICS[metric],
             value(ours, metric) - value(other, metric))
            for claim, ours, other, metrics in CLAIMS for metric in metrics]


def verdict(difference: np.ndarray) -> str:
    """Whether the interval of the mean leaves 0 on one side."""
    mean, half = difference.mean(), half_width(difference)
    if mean - half > 0:
        return 'holds'
    return '**the opposite**' if mean + half < 0 else '**not shown**'


def by_seed(results: Dict[Tuple[int, str], dict]) -> Values:
    """Look-up in what the jobs wrote."""
    seeds = sorted({seed for seed, _ in results})

    def values(name: str, metric: str) -> np.ndarray:
        if metric in ('full', 'tenth'):
            suffix = '-tenth' * (metric == 'tenth')
            name, metric = f'finetune{suffix}_{name}', 'top1'
        return np.array([results[seed, name][metric] for seed in seeds])

    return values


def draw(values: Values, file: str) -> None:
    """Means with 95% intervals over masks, depths and weights."""
    figure = Figure(figsize=(10, 7))
    axes = figure.subplots(2, 2)

    def line(axis, x: Sequence[str], names: Sequence[str], metric: str,
             label: str) -> None:
        data = [values(name, metric) for name in names]
        axis.errorbar(
            x, [d.mean() for d in data], [half_width(d) for d in data],
            marker='o',
            capsize=4,
            label=label)

    for axis, metric in zip(axes[0], FEATURES):
        for name, title in (('mae', 'plain MAE'), ('dmae', 'DMAE')):
            line(axis, ['75%', '90%', '95%'],
                 [name, f'{name}-mask90', f'{name}-mask95'], metric, title)
        axis.set(title=METRICS[metric], xlabel='masked patches')
        line(axes[1, 0], ['1/4', '1/2', '3/4', 'last'],
             ['dmae-depth25', 'dmae-depth50', 'dmae', 'dmae-depth100'],
             metric, METRICS[metric])
        line(axes[1, 1], ['0', '1', '3', '10', '30'],
             ['mae', 'dmae-weight1', 'dmae-weight3', 'dmae', 'dmae-weight30'],
             metric, METRICS[metric])
    axes[1, 0].set(title='DMAE', xlabel='aligned depth')
    axes[1, 1].set(title='DMAE (0: plain MAE)', xlabel='loss weight')
    for axis in axes.flat:
        axis.set_ylabel('accuracy in percent')
        axis.legend()
    save(figure, file)


def draw_finetuning(values: Values, file: str) -> None:
    """Means with 95% intervals of the supervised trainings."""
    figure = Figure(figsize=(10, 3.6))
    axes = figure.subplots(1, 2, sharey=True)
    # The longer list first: it says the order of the titles.
    for axis, metric, trained in ((axes[1], 'tenth', TRAINED_TENTH),
                                  (axes[0], 'full', TRAINED)):
        data = [values(name, metric) for name, _ in trained]
        axis.errorbar([d.mean() for d in data],
                      [title for _, title in trained],
                      xerr=[half_width(d) for d in data],
                      fmt='o',
                      capsize=4)
        axis.set(title=METRICS[metric], xlabel='accuracy in percent')
    axes[0].invert_yaxis()
    save(figure, file)


def save(figure: Figure, file: str) -> None:
    for axis in figure.axes:
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def write_before_discussion(page: str, file: str) -> None:
    """Write a page, and keep what a person has written behind it.

    Args:
        page (str): What stands before the line ``DISCUSSION``.
        file (str): Where it is written.
    """
    try:
        with open(file) as stream:
            discussion = stream.read().partition(DISCUSSION)[2]
    except FileNotFoundError:
        discussion = '\n\nNot written yet.\n'
    with open(file, 'w') as stream:
        stream.write(page + DISCUSSION + discussion)


def write_page(results: Dict[Tuple[int, str], dict],
               docs: str,
               command: str,
               processes: int,
               is_recipe: bool = True) -> str:
    """Write the page and its figures.

    What stands behind the line ``DISCUSSION`` of an existing page was written
    by hand and stays.

    Args:
        results (dict): What each job wrote, by (seed, name).
        docs (str): Folder of ``results.md``; its folder ``images`` gets the
            figures.
        command (str): What was typed.
        processes (int): Trainings at a time.
        is_recipe (bool): Whether nothing was changed by options, so that what
            the page says about the trainings is true. Defaults to True.

    Returns:
        str: Path of the page.
    """
    values = by_seed(results)
    seeds = len({seed for seed, _ in results})
    minutes = sum(result['seconds'] for result in results.values()) / 60
    images = osp.join(docs, 'images')
    os.makedirs(images, exist_ok=True)
    draw(values, osp.join(images, 'study_frozen.png'))
    draw_finetuning(values, osp.join(images, 'study_finetuning.png'))

    frozen = table(('student', 'kNN', 'linear probe'), [
        (title, *(interval(values(name, metric)) for metric in FEATURES))
        for name, title in FROZEN
    ])
    trained = table(('training', 'all labels', 'a tenth'), [
        *((title,
           interval(values(name, 'full')) if (name, title) in TRAINED else '',
           interval(values(name, 'tenth'))) for name, title in TRAINED_TENTH),
        ('DMAE from the fine-tuned teacher, then labels',
         interval(values('dmae-finetuned-teacher', 'full')), ''),
        ('the fine-tuned teacher itself',
         interval(values('teacher-finetuned', 'top1')),
         interval(values('teacher-finetuned-tenth', 'top1'))),
    ])
    said = table(
        ('claim', 'measured by', 'difference', 'verdict'),
        [(claim, metric, interval(difference, '+'), verdict(difference))
         for claim, metric, difference in claims(values)])
    packages = listed(versions())
    written = (
        f'{len(results)} trainings with {seeds} seeds, {minutes:.0f} minutes '
        f'of trainings in all, {processes} at a time with one thread each, on '
        f'{os.cpu_count()} cores ({platform.machine()}), CPU only; '
        f'{packages}.')
    page = (OTHER * (not is_recipe) + PAGE).format(
        seeds=seeds,
        command=command,
        written=textwrap.fill(written, 80),
        said=said,
        frozen=frozen,
        trained=trained)
    file = osp.join(docs, 'results.md')
    write_before_discussion(page, file)
    return file
