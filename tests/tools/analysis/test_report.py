"""The page: all is in it, nothing evil in it runs, a browser shows it.

What it shows is read back from a real browser, where there is one.
"""
import json
import re
import runpy
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from dmae_mm.evaluation.report import Run, what_is_wrong, write_page
from dmae_mm.evaluation.report.page import MAX_POINTS, format_number, thinned
from tests.evaluation.report.work_dirs import line, write_killed, write_start
from tests.conftest import ROOT

SCRIPT = str(ROOT / 'tools' / 'analysis' / 'report.py')
BROWSER = next(
    filter(None,
           map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome',
                              'chrome'))), None)


@pytest.fixture
def killed(tmp_path):
    return write_killed(tmp_path / 'dmae')


def test_long_curves_keep_their_extremes():
    values = np.random.default_rng(0).normal(size=50_000)
    values[12_345], values[23_456] = 99, float('inf')
    curve = dict(enumerate(values.tolist(), 1))
    at, drawn = thinned(curve)
    assert len(at) <= MAX_POINTS + 2 and at == sorted(at)
    assert max(drawn) == 99 and min(drawn) == values.min()
    assert at[0] == 1 and at[-1] == 50_000
    assert all(curve[x] == y for x, y in zip(at, drawn, strict=True))
    assert thinned({2: 1., 1: 3.}) == [[1, 2], [3., 1.]]


@pytest.mark.parametrize('value, text', [
    (None, '–'), (0.123456, '0.1235'), (1.2e-5, '1.2e-05'), (98.333, '98.33'),
    (45231, '45231'), (float('nan'), 'nan')])
def test_numbers(value, text):
    assert format_number(value) == text


class Tags(HTMLParser):

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


EVIL = '</script><script>document.title="evil"<img src=x onerror=alert(1)>'


@pytest.fixture
def pages(killed, tmp_path):
    """The killed run beside one whose every text is evil."""
    name = '<script>document.title="evil"'
    evil = tmp_path / name
    write_start(evil, '20260101_000000',
                [{**line(i, 3. + i), f'loss_{EVIL}': 1. * i} for i in (5, 10)],
                mask=repr(EVIL), pictures=(f'{name[1:7]}&\'"_10.png',))
    log = evil / '20260101_000000' / '20260101_000000.log'
    log.write_text(log.read_text().replace('3.11.7', EVIL))
    out = tmp_path / 'report.html'
    write_page([Run(path, path.name) for path in (killed, evil)], out,
               10_000_000, [f'{EVIL} is no work dir'])
    return out


def test_the_page_is_complete_and_nothing_in_it_is_executed(pages):
    text = pages.read_text()
    tags = Tags(text).tags
    assert [given for tag, given in tags if tag == 'script'] == [
        {'type': 'application/json', 'id': 'data'}, {}]
    assert not any(tag in ('img', 'link', 'iframe') or name.startswith('on')
                   or name in ('src', 'href')
                   for tag, given in tags for name in given)
    assert not re.search(r'url\(|@import|fetch\(|XMLHttp|https?://(?!www.w3)',
                         text)
    data = json.loads(re.search(
        r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert data['runs'][0]['curves']['loss'] == dict(
        pieces=[[[5, 10, 15, 20, 25], [9, 8, 6.5, 5.5, 4.5]],
                [[15, 20, 25], [7, 6, 5]]], count=6, bad=[30])
    for part in ('<td>30 of 30</td>', 'nan (4.5 at 25)', '61</td>',
                 'model.backbone.mask_ratio', 'tools/train.py c.py'):
        assert part in text, part


def in_browser(page, script, tmp_path):
    """The page's DOM after a script, and what the script returned."""
    poked = page.with_name('poked.html')
    poked.write_text(page.read_text().replace('</body>', f'''<script>
const result = (() => {{ {script} }})();
document.documentElement.dataset.result = JSON.stringify(result);
</script></body>'''))
    done = subprocess.run(
        [BROWSER, '--headless', '--no-sandbox', '--disable-gpu',
         f'--user-data-dir={tmp_path}/browser', '--window-size=1200,900',
         '--enable-logging=stderr', '--dump-dom', poked.as_uri()],
        capture_output=True, text=True, timeout=120)
    assert 'Uncaught' not in done.stderr, done.stderr
    return Tags(done.stdout).tags, done.stdout


@pytest.mark.skipif(BROWSER is None, reason='no Chromium or Chrome in PATH')
def test_in_a_browser(pages, tmp_path):
    """One visit: curves, values, switches, pictures; nothing evil ran."""
    tags, text = in_browser(pages, '''
        const chart = views.find((view) => view.chart.name === 'loss');
        const press = (key) => chart.svg.dispatchEvent(
            new KeyboardEvent('keydown', {key}));
        const change = (id, value, kind) => {
            const control = document.getElementById(id);
            control.value = value;
            control.dispatchEvent(new Event(kind));
        };
        const first = (view) => view.svg.querySelector('.curve')
            .getAttribute('d');
        const seen = {title: document.title, charts: views.length};
        seen.names = views.map((view) => view.chart.name);
        seen.curves = views.map(
            (view) => view.svg.querySelectorAll('.curve').length);
        seen.bad = chart.svg.querySelector('.bad title').textContent;
        press('End'); seen.end = chart.tip.textContent;
        press('ArrowLeft'); seen.left = chart.tip.textContent;
        press('Escape'); seen.closed = chart.tip.textContent;
        const box = chart.svg.getBoundingClientRect();
        const move = (x) => chart.svg.dispatchEvent(new PointerEvent(
            'pointermove', {clientX: box.left + x, clientY: box.top + 50}));
        move(chart.toX(15.4) * box.width / chart.width);
        seen.hover = chart.tip.textContent;
        const plain = first(chart);
        chart.box.click(); seen.log = first(chart) !== plain;
        chart.box.click(); seen.back = first(chart) === plain;
        change('smoothing', '0.5', 'input');
        press('Home'); press('ArrowRight');
        seen.smooth = chart.tip.textContent;
        showTip(views[6], 5); seen.lr = views[6].tip.textContent;
        change('smoothing', '0', 'input');
        change('axis', 'epoch', 'change'); press('End');
        seen.epoch = chart.tip.textContent;
        change('from', '0.5', 'input'); press('Home');
        seen.from = chart.tip.textContent;
        change('from', '0', 'input');
        const captions = () => [...document.querySelectorAll(
            '#gallery figure:not([hidden]) figcaption')]
            .map((one) => one.textContent.split(', ')[1]);
        seen.pictures = captions();
        change('step', '1', 'input'); seen.earlier = captions();
        seen.step = document.getElementById('step-value').textContent;
        document.querySelectorAll('#legend input')[1].click();
        seen.shown = chart.svg.querySelectorAll('.curve').length;
        seen.left_pictures = captions();
        return seen;''', tmp_path)
    root = next(given for tag, given in tags if tag == 'html')
    assert root.get('data-ready') == 'yes'
    assert re.search(r'id="error"[^>]*hidden', text)
    seen = json.loads(root['data-result'])
    assert seen['title'].endswith('report') and 'evil' in seen['title']
    assert seen['names'] == ['loss', f'loss_{EVIL}', 'probe/knn',
                             'accuracy/top1', 'val/mIoU', 'images/s', 'lr']
    # Two runs; in the first, a piece that was done again.
    assert seen['curves'] == [3, 1, 2, 1, 1, 3, 3]
    assert seen['bad'] == 'dmae: not finite at iteration 30'
    name = '<script>document.title="evil"'
    assert seen['end'] == f'iteration 25dmae4.5{name} (at 10)13'
    assert seen['left'] == f'iteration 20dmae5.5{name} (at 10)13'
    assert seen['closed'] == ''
    assert seen['hover'].startswith('iteration 15dmae6.5')
    assert seen['log'] and seen['back']
    # (9 * 0.25 + 8 * 0.5) / 0.75
    assert 'dmae8.333 (unsmoothed 8)' in seen['smooth']
    assert 'unsmoothed' not in seen['lr'] and 'dmae0.1' in seen['lr']
    assert seen['epoch'].startswith('epoch 2.5dmae4.5')
    assert seen['from'].startswith('epoch 1.5dmae6.5')
    assert sorted(seen['pictures']) == ['step 10', 'step 30']
    assert sorted(seen['earlier']) == ['step 10', 'step 20']
    assert seen['step'] == '20'
    assert seen['shown'] == 2
    assert seen['left_pictures'] == ['step 20']
    assert not any('onerror' in given for _, given in tags)


def main(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', [SCRIPT, *map(str, arguments)])
    runpy.run_path(SCRIPT, run_name='__main__')


def test_command_line(killed, tmp_path, monkeypatch, capsys):
    (tmp_path / 'empty').mkdir()
    write_start(tmp_path / 'silent', '20260101_000000', [])
    out = tmp_path / 'page.html'
    main(monkeypatch, killed, tmp_path / 'empty', killed / '.' / '..' / 'dmae',
         tmp_path / 'silent', '--out', out, '--max-pictures-mb', '0')
    shown = capsys.readouterr()
    assert f'{out}: 1 run, ' in shown.out and 'silent' not in shown.out
    assert 'dmae: 20260102_000000 went on from iteration 10' in shown.out
    assert 'empty is no work dir of a run' in shown.err
    assert 'silent has no logged values yet' in shown.err
    text = out.read_text()
    assert 'Not in this page' in text and '3 more (' in text
    assert not list(tmp_path.glob('.writing*'))


@pytest.mark.parametrize('arguments, message', [
    (['{}/gone'], 'there is no .*gone'),
    (['{}/dmae', '--out', '{}/no/page.html'], 'there is no folder .*/no'),
    (['{}/dmae', '--out', '{}/dmae'], '--out .*dmae: there is no folder'),
    (['{}/dmae', '--max-pictures-mb', '-1'], '-1.0 must be 0 or above'),
    (['{}'], 'is no work dir .*; give those below it: .*dmae'),
    (['{}/dmae/20260101_000000'], 'one start of a run; give .*dmae'),
    (['{}/file'], 'file is no folder; give the work dir'),
])
def test_refused(arguments, message, killed, tmp_path, monkeypatch, capsys):
    (tmp_path / 'file').write_text('')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(monkeypatch, *(text.format(tmp_path) for text in arguments))
    assert stopped.value.code
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / 'report.html').exists()


def test_a_page_that_cannot_be_written_leaves_the_last(killed, tmp_path,
                                                       monkeypatch):
    out = tmp_path / 'page.html'
    out.write_text('the last')

    def full(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Path, 'write_text', full)
    with pytest.raises(SystemExit, match='cannot be written: .*No space left'):
        main(monkeypatch, killed, '--out', out)
    assert out.read_text() == 'the last'
    assert what_is_wrong(killed) is None
