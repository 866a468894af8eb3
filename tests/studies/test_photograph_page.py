"""Statistics and page of the study on photographs, on made-up numbers."""
from pathlib import Path

import cv2
import numpy as np
import pytest
from dmae_mm.evaluation import knn_accuracy, linear_probe_accuracy

from studies import photograph_jobs, photograph_page
from studies.photograph_page import assess, holm, p_value
from tests.toys.photographs import setting

HEAD = dict(
    data=dict(all=50, train=40, test=10, classes=['a', 'b'], digests={}),
    versions={'torch': '2.10'},
    code={})


def test_p_values_by_hand():
    # t = 5 / (1 / sqrt(3)) = 8.66 with 2 degrees of freedom: for these,
    # p = 1 - t / sqrt(2 + t^2).
    assert p_value(np.array([4., 5., 6.])) == pytest.approx(
        1 - 8.660254 / (2 + 75)**0.5, rel=1e-5)
    assert p_value(np.zeros(3)) == 1 and p_value(np.ones(3)) == 0
    # 3 x 0.01; then 2 x 0.02; the last is not below the one before.
    assert holm([0.02, 0.01, 0.03]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.9, 0.8]) == [1., 1.]
    assert holm([]) == []


def test_a_student_that_sees_labels_is_found():
    """A planted improvement among 39 comparisons of equals."""
    random = np.random.RandomState(0)
    accuracies = {'leaked': [], 'plain': []}
    for _ in range(3):
        labels = np.arange(200) % 4
        for name, strength in (('leaked', 4.), ('plain', 0.)):
            features = random.randn(2, 200, 8).astype(np.float32)
            features[..., :4] += strength * np.eye(4, dtype=np.float32)[labels]
            splits = [(side, labels) for side in features]
            accuracies[name].append(
                (knn_accuracy(*splits), linear_probe_accuracy(*splits)))
    leaked, plain = (np.array(accuracies[name]) for name in accuracies)
    found = assess([
        *(('leaked', metric, difference)
          for metric, difference in zip('kl', (leaked - plain).T)),
        *(('null', '', random.randn(3)) for _ in range(38))
    ])
    assert [claim.verdict for claim in found[:2]] == ['holds', 'holds']
    assert min(claim.corrected for claim in found[:2]) < 0.05
    assert all(claim.difference.mean() > 40 for claim in found[:2])
    opposite, = assess([('', '', -found[0].difference)])
    assert opposite.verdict == '**the opposite**'


def test_two_seeds_as_two_methods_are_not():
    """False findings among 40 comparisons, of 150 studies: near 5% of the
    rows before correction; after it, in at most 5% of the studies."""
    random = np.random.RandomState(0)
    rows = studies = 0
    for _ in range(150):
        # Two trainings with equal means, paired by what a seed has in common.
        common = random.randn(1, 40, 3)
        ours, theirs = common + random.randn(2, 40, 3)
        found = assess([('', '', row) for row in ours - theirs])
        rows += sum(claim.verdict != '**not shown**' for claim in found)
        studies += any(claim.corrected < 0.05 for claim in found)
    assert 0.043 < rows / (150 * 40) < 0.057
    assert studies / 150 < 0.09  # 0.05 and two standard deviations


@pytest.fixture
def jobs(monkeypatch):
    monkeypatch.setattr(
        photograph_jobs, 'cost_of', lambda job, where: 2. if
        'model.generator' in job.options else 1.)
    return photograph_jobs.all_jobs(setting())


@pytest.fixture
def made_up(jobs):
    """Three seeds: DMAE is 4 to 6 points better in kNN, and 1 point less for
    each doubling of the epochs."""
    random = np.random.RandomState(0)
    results = {}
    for seed in range(3):
        for job in jobs:
            metrics = ('top1', ) if job.group == 'Labels' else ('knn',
                                                                'linear')
            results['once' if job.once else seed, job.name] = dict(
                seconds=60.,
                tflop=2.,
                **{metric: 40 + random.rand() for metric in metrics})
        for job in jobs:
            if job.group == 'Length of training':
                results[seed, job.name]['knn'] = 30.
                if job.name.startswith('dmae'):
                    results[seed, job.name]['knn'] += (
                        4 + seed - np.log2(job.epochs / 4))
        results[seed, 'mae']['knn'] = 30.
        results[seed, 'dmae']['knn'] = 34. + seed
    return results


def test_claims(made_up):
    values = photograph_page.by_seed(made_up)
    assert values('dmae', 'knn').tolist() == [34, 35, 36]
    assert values('teacher', 'knn').shape == (1, )
    assert values('dmae', 'top1') is None and values('no', 'knn') is None
    found = {(claim.title, claim.metric): claim
             for claim in photograph_page.claims(values)}
    claim = found['DMAE is better than plain MAE, equal updates', 'kNN']
    assert claim.verdict == 'holds' and claim.difference.tolist() == [4, 5, 6]
    assert claim.corrected == pytest.approx(
        min(1, claim.p * len(found)), rel=0.5)
    # Every claim names jobs that exist, but for another teacher's.
    names = {name for _, name in made_up}
    assert names > {'dmae'}
    for _, ours, other, _ in photograph_page._claims('dmae'):
        for name in (*ours.split(' - '), *other.split(' - ')):
            known = name in names or name == 'dmae-external' or (
                name.endswith('-compute') or name.startswith('labels1_'))
            # The objective L1 is DMAE itself.
            assert known or name == 'l1', name
    gone = {key: value for key, value in made_up.items()
            if key[1] != 'mae-mask95'}
    fewer = photograph_page.claims(photograph_page.by_seed(gone))
    assert len(found) - len(fewer) == 4  # two claims, two metrics


def test_extrapolation(made_up):
    values = photograph_page.by_seed(made_up)
    gains = photograph_page.lengths(values, 'knn')
    assert {epochs: gain.tolist() for epochs, gain in gains.items()} == {
        1: [6, 7, 8], 2: [5, 6, 7], 4: [4, 5, 6], 8: [3, 4, 5],
        16: [2, 3, 4]}
    assert photograph_page.extrapolated(gains, 64) == pytest.approx([0, 1, 2])
    table = photograph_page.length_table(values)
    assert '| 16 | +3.00 ± 2.48 |' in table
    assert '| 64, **extrapolated** | +1.00 ± 2.48 |' in table


def test_page(jobs, made_up, tmp_path):

    def write() -> str:
        return Path(
            photograph_page.write_page(
                jobs,
                made_up,
                HEAD, ['2 cores', '8 cores'],
                str(tmp_path),
                command='make study',
                processes=2,
                is_recipe=True)).read_text()

    page = write()
    assert ('| DMAE is better than plain MAE, equal updates | kNN '
            '| +5.00 ± 2.48 | holds |') in page
    assert '| plain MAE | 4 | 2.0 | 30.00 ± 0.00 |' in page
    assert '2 cores; 8 cores' in page
    hours = len(made_up) / 60
    assert (f'{len(made_up)} trainings, {hours:.1f} hours'
            in page.replace('\n', ' '))
    for group in {job.group for job in jobs}:
        assert page.count(f'## {group}\n') == 1
    for name in ('masks', 'objectives', 'length'):
        assert f'(images/photographs_{name}.png)' in page
        picture = cv2.imread(str(tmp_path / f'images/photographs_{name}.png'))
        assert picture.shape[1] >= 1000 and picture.std() > 20
    Path(tmp_path, 'results-photographs.md').write_text(
        page.replace('Not written yet.', 'Because ...'))
    assert write().endswith('Because ...\n')


def test_page_of_some_jobs(jobs, made_up, tmp_path):
    """As of a study that was stopped."""
    some = {key: value for key, value in made_up.items()
            if key[1] in ('mae', 'dmae')}
    page = Path(
        photograph_page.write_page(jobs, some, HEAD, ['2 cores'],
                                   str(tmp_path), 'make study', 2,
                                   False)).read_text()
    assert 'This is not the recipe' in page and 'There are\n2 rows' in page
    assert 'extrapolated' not in page
