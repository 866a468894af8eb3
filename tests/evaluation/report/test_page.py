"""The page: all is in it, nothing evil in it runs, a browser shows it.

What it shows is read back from a real browser, where there is one.
"""
import base64
import json
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from tests.toys import needs_report  # noqa: F401
from dmae_mm.evaluation.report import Run, write_page
from dmae_mm.evaluation.report.page import (MAX_POINTS, choose_pictures,
                                            format_number, thinned)
from tests.toys.work_dirs import line, write_killed, write_png, write_start

BROWSER = next(
    filter(None,
           map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome',
                              'chrome'))), None)


def test_long_curves_keep_their_extremes():
    values = np.random.default_rng(0).normal(size=50_000)
    values[12_345], values[23_456] = 99, float('inf')
    curve = dict(enumerate(values.tolist(), 1))
    at, drawn = thinned(curve)
    assert len(at) <= MAX_POINTS + 2 and at == sorted(at)
    assert max(drawn) == 99 and min(drawn) == values.min()
    assert at[0] == 1 and at[-1] == 50_000
    assert all(curve[x] == y for x, y in zip(at, drawn, strict=True))
    assert thinned({2: 1., 1: 3., 3: float('nan')}) == ([1, 2, 3],
                                                        [3., 1., None])


@pytest.mark.parametrize('value, text', [
    (None, '–'), (0.123456, '0.1235'), (1.2e-5, '1.2e-05'), (98.333, '98.33'),
    (45231, '45231'), (float('nan'), 'nan')])
def test_numbers(value, text):
    assert format_number(value) == text


def test_pictures_within_a_size(tmp_path):
    folder = write_start(tmp_path / 'run', '20260101_000000', [line(1, 1.)])
    folder = folder / 'vis_data' / 'vis_image'
    for name in 'ab':
        for step in range(6):
            write_png(folder / f'{name}_{step}.png', 16)
    size = (folder / 'a_0.png').stat().st_size
    whole = (folder / 'b_5.png').read_bytes()
    (folder / 'b_5.png').write_bytes(whole[:-4])
    run = Run(tmp_path / 'run', 'run')

    def chosen(number):
        pictures, left_out = choose_pictures([run], number * size)
        return {title: [*steps] for title, steps in pictures}, left_out

    assert chosen(11) == ({'a: run': [*range(6)], 'b: run': [*range(5)]}, 0)
    assert run.notes == [f'{folder}/b_5.png is no whole PNG file.']
    assert chosen(7) == ({'a: run': [0, 2, 5], 'b: run': [0, 2, 4]}, 5)
    assert chosen(3) == ({'a: run': [5], 'b: run': [4]}, 9)
    assert chosen(1) == ({}, 11)


class Tags(HTMLParser):

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


EVIL = '</script><script>document.title="evil"<b><img src=x onerror=alert(1)>'
NAME = '<script>document.title="evil"'


@pytest.fixture
def page(tmp_path):
    """A killed run beside one whose every text is evil."""
    evil = tmp_path / NAME
    write_start(evil, '20260101_000000',
                [{**line(i, 3. + i), f'loss_{EVIL}': 1. * i} for i in (5, 10)],
                mask=repr(EVIL), pictures=(f'{NAME[1:7]}&\'"_10.png',))
    log = evil / '20260101_000000' / '20260101_000000.log'
    log.write_text(log.read_text().replace('3.11.7', EVIL))
    out = tmp_path / 'report.html'
    runs = [write_killed(tmp_path / 'dmae'), evil]
    write_page([Run(path, path.name) for path in runs], out, 10_000_000,
               [f'{EVIL} is no work dir'])
    return out


def test_the_page_is_complete_and_nothing_in_it_is_executed(page):
    text = page.read_text()
    tags = Tags(text).tags
    assert [given for tag, given in tags if tag == 'script'] == [{}] * 3
    pictures = [given['src'] for tag, given in tags if tag == 'img']
    assert len(pictures) == 4
    for picture in pictures:
        kind, code = picture.split(',')
        assert kind == 'data:image/png;base64'
        assert base64.b64decode(code).startswith(b'\x89PNG')
    assert not any(tag in ('link', 'iframe') or name.startswith('on')
                   or name == 'href' or (name == 'src' and tag != 'img')
                   for tag, given in tags for name in given)
    rules = next(given['content'] for tag, given in tags
                 if 'http-equiv' in given)
    assert rules.startswith("default-src 'none'; form-action 'none'; ")
    assert 'img-src data: blob:;' in rules
    assert 'http' not in rules
    for part in ('<td>30 of 30</td>', 'nan (4.5 at 25)', '61</td>',
                 'model.backbone.mask_ratio', 'tools/train.py c.py',
                 '32 images/s'):
        assert part in text, part


@pytest.mark.skipif(BROWSER is None, reason='no Chromium or Chrome in PATH')
def test_in_a_browser(page, tmp_path):
    """Curves, values, buttons as a person finds them; nothing evil ran."""
    poked = page.with_name('poked.html')
    poked.write_text(page.read_text().replace('</body>', '''<script>
const plot = document.getElementById('curves');
const texts = (kind) => [...document.querySelectorAll(kind)]
    .map((one) => one.textContent);
const curves = () => plot._fullData.filter((one) => one.xaxis === 'x')
    .map((one) => [one.mode, [...one.x], [...one.y]]);
const press = (text) => [...document.querySelectorAll('.updatemenu-button')]
    .find((one) => one.textContent === text)
    .dispatchEvent(new MouseEvent('click'));
const wait = () => new Promise((done) => setTimeout(done, 300));
(async () => {
  await wait();
  const seen = {title: document.title, names: texts('.annotation-text'),
    runs: texts('.legendtext'), buttons: texts('.updatemenu-item-text'),
    lines: document.querySelectorAll('.scatterlayer .js-line').length,
    curves: curves()};
  press('epochs'); await wait();
  seen.epochs = curves().map((one) => one[1]);
  press('losses log'); await wait();
  seen.scales = [plot._fullLayout.yaxis.type, plot._fullLayout.yaxis3.type];
  document.documentElement.dataset.result = JSON.stringify(seen);
})();
</script></body>'''))
    done = subprocess.run(
        [BROWSER, '--headless', '--no-sandbox', '--disable-gpu',
         f'--user-data-dir={tmp_path}/browser', '--window-size=1200,900',
         '--virtual-time-budget=20000', '--enable-logging=stderr',
         '--dump-dom', poked.as_uri()],
        capture_output=True, text=True, timeout=120)
    assert 'Uncaught' not in done.stderr, done.stderr
    assert 'Content Security Policy' not in done.stderr, done.stderr
    tags = Tags(done.stdout).tags
    assert not any('onerror' in given for _, given in tags)
    assert not any('Share' in given.get('data-title', '') for _, given in tags)
    seen = json.loads(dict(tags)['html']['data-result'])
    assert seen['title'].endswith('report') and 'evil' in seen['title']
    # As text, not as tags.
    assert [name.strip() for name in seen['names'][:3]] == [
        'loss sum of all loss terms', f'loss_{EVIL}', 'probe/knn']
    assert seen['runs'] == ['dmae', NAME]
    assert seen['buttons'] == ['iterations', 'epochs', 'images seen',
                               'losses linear', 'losses log']
    assert seen['curves'] == [
        ['lines+markers', [5, 10, 15, 20, 25, 30],
         [9, 8, 6.5, 5.5, 4.5, None]],
        ['lines', [15, 20, 25], [7, 6, 5]],  # done again
        ['markers', [10], [8]],  # resumed
        ['markers', [30], [4.5]],  # not finite
        ['lines+markers', [5, 10], [8, 13]]]
    assert seen['lines'] == 14
    assert seen['epochs'] == [[0.5, 1, 1.5, 2, 2.5, 3], [1.5, 2, 2.5], [1],
                              [3], [0.5, 1]]
    assert seen['scales'] == ['log', 'linear']
