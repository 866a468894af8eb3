"""Writes docs/results-photographs.md: tables, claims, figures."""
import os
import os.path as osp
import textwrap
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import ttest_1samp

from .photograph_jobs import EPOCHS, LENGTHS, MASKS, OBJECTIVES, PhotographJob
from .seeds import half_width, interval, listed, table
from .study_page import OTHER, save, verdict, write_before_discussion

FEATURES = ('knn', 'linear')
METRICS = dict(knn='kNN', linear='linear probe', top1='top-1')
ONE = 0.05  # how often a difference may be found where there is none
PAGE = """# What helps on photographs

Which teacher, objective and student help, by how much, and how sure is that?
A small study on {data}, with {seeds} seeds and one teacher.

## One command

```bash
{command}
```

{written}

## Claims

Differences are in points of accuracy, mean ± half of the 95% interval
(Student's t) over the seeds, taken seed by seed. "Holds" means that the
interval lies above 0, "the opposite" that it lies below. There are
{num_claims} rows: at 5% each, about {by_chance} would be found by chance if
nothing had an effect. The last column is the p-value after Holm's correction
for all rows; what is below 0.05 there stands against that, too.

{claims}

{tables}
{length}
## Figures

![Masks and depths](images/photographs_masks.png)

![Objectives](images/photographs_objectives.png)

![Length of training](images/photographs_length.png)

## How it was done

- **Data**: {counts} images, 32 px. Each student sees the same {train}
  (`train`); the teacher sees all training images (`all`), without labels.
  Images are cropped to 50 to 100% and flipped.
- **Accuracy**: in percent on the test images, after the last epoch. kNN and
  linear probe are of frozen features; top-1 is of a student that was
  fine-tuned.
- **A seed** decides the initial weights, the masks and the order of the
  images. Teacher, images and labels are the same for all seeds: intervals do
  not say what another teacher would change.
- **TFLOP** is the counted cost of the training, forward and backward, student,
  decoder and teacher. "At equal compute" gives as many epochs as cost what
  {epochs} epochs of DMAE cost.
- **Choices**: loss weights and learning rates by `--choose`, on training
  images held out, with one seed.

"""
Pairs = Tuple[str, str, str, Tuple[str, ...]]
# Value of a metric of a job for each seed; None where it was not run.
Values = Callable[[str, str], Optional[np.ndarray]]


def _claims(two: str) -> List[Pairs]:
    """Claim, what is better and than what ('a - b': a difference), by what.

    Args:
        two (str): What two teachers are compared with.
    """
    own = 'dmae'
    found: List[Pairs] = [
        ('DMAE is better than plain MAE, equal updates', own, 'mae', FEATURES),
        ('DMAE is better than plain MAE, equal compute', own, 'mae-compute',
         FEATURES),
        ("With the paper's loss weight of 1 it is, equal updates",
         'dmae-weight1', 'mae', FEATURES),
        ('The pre-trained teacher is better than one fine-tuned on all labels',
         own, 'dmae-finetuned', FEATURES),
        ('... than one fine-tuned on 10% of the labels', own,
         'dmae-finetuned-10pct', FEATURES),
        ('The external teacher is better than the own, mask 90%',
         'dmae-external', 'dmae-mask90', FEATURES),
    ]
    for mask in MASKS[1:]:
        percent = f'{100 * mask:.0f}'
        found += [
            (f'DMAE is better than plain MAE, both at mask {percent}%',
             f'dmae-mask{percent}', f'mae-mask{percent}', FEATURES),
            (f'DMAE loses less than plain MAE from mask 75% to {percent}%',
             f'dmae-mask{percent} - dmae', f'mae-mask{percent} - mae',
             FEATURES)
        ]
    for depth, title in ((25, '1/4'), (50, '1/2'), (100, 'the last block')):
        found.append((f'3/4 of the depth is better than {title}', own,
                      f'dmae-depth{depth}', FEATURES))
    for percent in (1, 10, 100):
        first = f'labels{percent}_'
        of = f'with {percent}% of the labels'
        found += [(f'{title}, {of}', first + 'dmae', first + other, ('top1', ))
                  for title, other in (
                      ('DMAE, then labels, is better than after plain MAE',
                       'mae'),
                      ('... than labels from scratch', 'scratch'),
                      ("... than labels with the fine-tuned teacher's logits",
                       'scratch+logits'),
                      ('... than after DMAE from the fine-tuned teacher',
                       'dmae-finetuned'))]
    for name, (title, _, _) in OBJECTIVES.items():
        other = two if name == 'two' else own
        found += [(f'{title}: better than one teacher by L1, equal updates'
                   if name == 'two' else
                   f'{title}: better than L1, equal updates', name, other,
                   FEATURES),
                  (f'{title}: better, equal compute', f'{name}-compute',
                   other, FEATURES)]
    found += [(f'The teacher helps: {title}', name, f'{name}-control',
               FEATURES)
              for name, title in (('timm', 'ViT of timm'), ('swin', 'Swin'),
                                  ('resnet', 'ResNet'), ('mobilenet',
                                                         'MobileNet'))]
    found += [(f'{title} costs accuracy', own, f'dmae-{name}', FEATURES)
              for name, title in (
                  ('light-decoder', 'The light decoder'),
                  ('third', 'The light decoder, a third predicted,'),
                  ('bfloat16', 'bfloat16'),
                  ('teacher-bfloat16', 'A teacher in bfloat16'),
                  ('teacher-half', "The teacher's block 4 of 8"))]
    return found


@dataclass(frozen=True)
class Claim:
    """What was found of one claim.

    Attributes:
        title (str): The claim.
        metric (str): By which accuracy.
        difference (np.ndarray): In points, of each seed.
        p (float): Two-sided, of Student's t.
        corrected (float): The same after Holm's correction.
    """
    title: str
    metric: str
    difference: np.ndarray
    p: float
    corrected: float

    @property
    def verdict(self) -> str:
        """By the interval, uncorrected."""
        return verdict(self.difference)


def p_value(difference: np.ndarray) -> float:
    """Of the mean being 0, two-sided."""
    if difference.std() == 0:
        return float(difference.mean() == 0)
    return float(ttest_1samp(difference, 0.).pvalue)


def holm(p: Sequence[float]) -> List[float]:
    """Holm's correction: smallest p times n, next times n - 1, ..., none
    below one before it."""
    corrected, largest = [0.] * len(p), 0.
    for rank, index in enumerate(np.argsort(p, kind='stable')):
        largest = max(largest, min(1., p[index] * (len(p) - rank)))
        corrected[index] = largest
    return corrected


def assess(differences: Sequence[Tuple[str, str, np.ndarray]]) -> List[Claim]:
    """Claims from (title, metric, difference of each seed)."""
    p = [p_value(difference) for _, _, difference in differences]
    return [
        Claim(*given, p=each, corrected=corrected)
        for given, each, corrected in zip(differences, p, holm(p))
    ]


def claims(values: Values) -> List[Claim]:
    """All claims whose jobs were run."""

    def value(names: str, metric: str) -> Optional[np.ndarray]:
        found = [values(name, metric) for name in names.split(' - ')]
        if any(each is None for each in found):
            return None
        return found[0] - found[1] if len(found) > 1 else found[0]

    # An external second teacher sees fewer patches, as that one does.
    external = values('dmae-external', 'knn') is not None
    differences = []
    for title, ours, other, metrics in _claims(
            'dmae-mask90' if external else 'dmae'):
        for metric in metrics:
            both = value(ours, metric), value(other, metric)
            if both[0] is not None and both[1] is not None:
                differences.append((title, METRICS[metric], both[0] - both[1]))
    return assess(differences)


def by_seed(results: Dict[tuple, dict]) -> Values:
    """Look-up in what the jobs wrote."""
    seeds = sorted({seed for seed, _ in results if isinstance(seed, int)})

    def values(name: str, metric: str) -> Optional[np.ndarray]:
        keys = ([('once', name)] if ('once', name) in results else
                [(seed, name) for seed in seeds])
        found = [results.get(key, {}).get(metric) for key in keys]
        return None if None in found else np.array(found)

    return values


def group_tables(jobs: Sequence[PhotographJob], values: Values) -> str:
    """A table of each group; both references stand in each."""
    groups: Dict[str, List[PhotographJob]] = {}
    for job in jobs:
        groups.setdefault(job.group, []).append(job)
    references = groups.get('DMAE and plain MAE', [])[:2]
    parts = []
    for group, members in groups.items():
        metrics = [
            metric for metric in METRICS
            if any(values(job.name, metric) is not None for job in members)
        ]
        if group not in ('Labels', 'DMAE and plain MAE'):
            members = [*references, *members]
        rows = []
        for job in members:
            cells = [values(job.name, metric) for metric in metrics]
            cost = values(job.name, 'tflop')
            if cost is not None:
                rows.append((job.title, str(job.epochs), f'{cost.mean():.1f}',
                             *('' if cell is None else interval(cell)
                               for cell in cells)))
        parts.append(f'## {group}\n\n' + table(
            ('training', 'epochs', 'TFLOP',
             *(METRICS[metric] for metric in metrics)), rows) + '\n')
    return '\n'.join(parts)


def lengths(values: Values, metric: str) -> Dict[int, np.ndarray]:
    """Gain of DMAE over plain MAE after each number of epochs, by seed."""
    found = {}
    for length in LENGTHS:
        epochs = max(1, round(length * EPOCHS))
        end = '' if length == 1 else f'-length{epochs}'
        both = values(f'dmae{end}', metric), values(f'mae{end}', metric)
        if both[0] is not None and both[1] is not None:
            found[epochs] = both[0] - both[1]
    return found


def extrapolated(gains: Dict[int, np.ndarray], epochs: int) -> np.ndarray:
    """The gain of each seed after more epochs, by a straight line through
    gains over the logarithm of the epochs."""
    x = np.log2(list(gains))
    slope, start = np.polyfit(x, np.array(list(gains.values())), 1)
    return start + slope * np.log2(epochs)


def length_table(values: Values) -> str:
    """Gains, and what a straight line says of longer trainings."""
    gains = {metric: lengths(values, metric) for metric in FEATURES}
    if len(gains['knn']) < 3:
        return ''
    rows = [(str(epochs), *(interval(gains[metric][epochs], '+')
                            for metric in FEATURES))
            for epochs in gains['knn']]
    beyond = 4 * max(gains['knn'])
    rows.append((f'{beyond}, **extrapolated**',
                 *(interval(extrapolated(gains[metric], beyond), '+')
                   for metric in FEATURES)))
    head = ('epochs', *(METRICS[metric] for metric in FEATURES))
    return '\n' + textwrap.fill(
        'Gain of DMAE over plain MAE by the length of both. The last row was '
        'not trained: it is a straight line over the logarithm of the epochs, '
        'and its interval says only how much the seeds differ.',
        80) + '\n\n' + table(head, rows) + '\n'


def _line(axis, x: Sequence, data: Sequence[np.ndarray], label: str) -> None:
    axis.errorbar(
        x, [each.mean() for each in data], [half_width(each) for each in data],
        marker='o',
        capsize=4,
        label=label)


def draw(values: Values, images: str) -> None:
    """The three figures, of what was run."""
    figure = Figure(figsize=(10, 3.6))
    axes = figure.subplots(1, 3)
    for axis, metric in zip(axes, FEATURES):
        for name, title in (('mae', 'plain MAE'), ('dmae', 'DMAE')):
            found = [(f'{100 * mask:.0f}%', values(
                name + (f'-mask{100 * mask:.0f}' if mask > 0.75 else ''),
                metric)) for mask in MASKS]
            _lines(axis, found, title)
        axis.set(title=METRICS[metric], xlabel='masked patches')
        _lines(axes[2], [(depth, values(name, metric)) for depth, name in (
            ('1/4', 'dmae-depth25'), ('1/2', 'dmae-depth50'), ('3/4', 'dmae'),
            ('last', 'dmae-depth100'))], METRICS[metric])
    axes[2].set(title='DMAE', xlabel='aligned depth')
    _finish(figure, osp.join(images, 'photographs_masks.png'))

    figure = Figure(figsize=(10, 5))
    axes = figure.subplots(1, 2, sharey=True)
    for axis, metric in zip(axes, FEATURES):
        for end, title in (('', 'equal updates'), ('-compute',
                                                   'equal compute')):
            rows = []
            for name, (label, _, _) in OBJECTIVES.items():
                job = 'dmae' if name == 'l1' else name
                found = values(job + end, metric)
                rows.append(
                    (label, values(job, metric) if found is None else found))
            rows = [row for row in rows if row[1] is not None]
            axis.errorbar([each.mean() for _, each in rows],
                          [label for label, _ in rows],
                          xerr=[half_width(each) for _, each in rows],
                          fmt='o' if end == '' else 's',
                          capsize=4,
                          alpha=0.7,
                          label=title)
        axis.set(title=METRICS[metric], xlabel='accuracy in percent')
    axes[0].invert_yaxis()
    _finish(figure, osp.join(images, 'photographs_objectives.png'), '')

    figure = Figure(figsize=(10, 3.6))
    axes = figure.subplots(1, 2)
    for axis, metric in zip(axes, FEATURES):
        gains = lengths(values, metric)
        if gains:
            _line(axis, list(gains), list(gains.values()), 'measured')
        if len(gains) > 2:
            x = [max(gains), 2 * max(gains), 4 * max(gains)]
            axis.plot(
                x, [extrapolated(gains, epochs).mean() for epochs in x],
                '--',
                label='extrapolated: a straight line')
        axis.set_xscale('log', base=2)
        axis.set(
            title=f'{METRICS[metric]}: DMAE - plain MAE', xlabel='epochs')
    _finish(figure, osp.join(images, 'photographs_length.png'), 'points')


def _lines(axis, found: Sequence[Tuple[str, Optional[np.ndarray]]],
           label: str) -> None:
    rows = [(x, each) for x, each in found if each is not None]
    if rows:
        _line(axis, [x for x, _ in rows], [each for _, each in rows], label)


def _finish(figure: Figure,
            file: str,
            unit: str = 'accuracy in percent') -> None:
    for axis in figure.axes:
        if unit:
            axis.set_ylabel(unit)
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    save(figure, file)


def write_page(jobs: Sequence[PhotographJob], results: Dict[tuple, dict],
               head: dict, machines: Sequence[str], docs: str, command: str,
               processes: int, is_recipe: bool) -> str:
    """Write the page and its figures.

    What stands behind the line ``DISCUSSION`` of an existing page was written
    by hand and stays.

    Args:
        jobs (list[PhotographJob]): Of a seed, in the order of the tables.
        results (dict): What each job wrote, by (seed, name).
        head (dict): Images, versions and code that they depend on.
        machines (list[str]): That they were run on.
        docs (str): Folder of ``results-photographs.md``; its folder
            ``images`` gets the figures.
        command (str): What was typed.
        processes (int): Trainings at a time.
        is_recipe (bool): Whether no options changed the trainings.

    Returns:
        str: Path of the page.
    """
    values = by_seed(results)
    images = osp.join(docs, 'images')
    os.makedirs(images, exist_ok=True)
    draw(values, images)
    found = claims(values)
    seeds = len({seed for seed, _ in results if isinstance(seed, int)})
    hours = sum(result['seconds'] for result in results.values()) / 3600
    packages = listed(head['versions'])
    written = (
        f'{len(results)} trainings, {hours:.1f} hours of trainings in all, '
        f'{processes} at a time with one thread each, on '
        f'{"; ".join(machines)}; {packages}.')
    data = head['data']
    page = (OTHER * (not is_recipe) + PAGE).format(
        data=f'{len(data["classes"])} classes of photographs',
        seeds=seeds,
        command=command,
        written=textwrap.fill(written, 80, break_on_hyphens=False),
        num_claims=len(found),
        by_chance=max(1, round(ONE * len(found))),
        claims=table(
            ('claim', 'measured by', 'difference', 'verdict', 'p, corrected'),
            [(claim.title, claim.metric, interval(claim.difference, '+'),
              claim.verdict, f'{claim.corrected:.2g}') for claim in found]),
        tables=group_tables(jobs, values),
        length=length_table(values),
        counts=', '.join(f'{data[split]} {split}'
                         for split in ('all', 'train', 'test')),
        train=data['train'],
        epochs=EPOCHS)
    file = osp.join(docs, 'results-photographs.md')
    write_before_discussion(page, file)
    return file
