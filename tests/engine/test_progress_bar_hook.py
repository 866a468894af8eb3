"""The bar, drawn on a pseudo-terminal and read as a person would see it."""
import contextlib
import fcntl
import logging
import os
import re
import struct
import sys
import termios
import threading
from types import SimpleNamespace

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from mmpretrain.registry import HOOKS

from dmae_mm.engine.hooks import progress_bar_hook as module


class Toy(BaseModel):

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, inputs, mode='tensor'):
        if mode == 'loss':
            return dict(
                loss_recon=self.weight * 0.5, loss_align_s8_t8=self.weight * 2)
        return [BaseDataElement()]


class Zeros(torch.utils.data.Dataset):
    metainfo = {}

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return dict(inputs=torch.zeros(1))


class Metric(BaseMetric):

    def process(self, data_batch, data_samples):
        pass

    def evaluate(self, size):
        return {'accuracy/top1': 12.5}

    def compute_metrics(self, results):
        raise NotImplementedError


class Talk(Hook):
    """Prints to both streams, and may fail, in the second epoch."""

    def __init__(self, fail):
        self.fail = fail

    def after_train_iter(self, runner, batch_idx, data_batch=None,
                         outputs=None):
        if runner.iter == 5:
            print('printed ', end='')
            print('in two parts')
            print('a warning', file=sys.stderr)
            if self.fail:
                raise RuntimeError('planted')


class Terminal:
    """A terminal in the place of standard output and standard error."""

    def __init__(self, columns=300):
        self.master, slave = os.openpty()
        self.stream = open(slave, 'w', encoding='utf-8')
        self.resize(columns)
        self.output = b''
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def resize(self, columns):
        fcntl.ioctl(self.stream, termios.TIOCSWINSZ,
                    struct.pack('HHHH', 50, columns, 0, 0))

    def _read(self):
        with contextlib.suppress(OSError):  # the other side is closed
            while chunk := os.read(self.master, 65536):
                self.output += chunk
        os.close(self.master)

    def __enter__(self):
        # Not in a fixture: pytest sets both anew when the test begins.
        self.outer = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = self.stream
        return self

    def __exit__(self, *error):
        module._SHOWN.close()
        given_back = sys.stdout is sys.stderr is self.stream
        sys.stdout, sys.stderr = self.outer
        self.stream.close()
        self.thread.join(20)
        assert given_back and not self.thread.is_alive()

    def rows(self):
        """What it shows after all that was written."""
        rows, row, column = [[]], 0, 0
        for part in re.findall(r'\x1b\[\d*[A-Za-z]|[^\x1b]',
                               self.output.decode()):
            if part == '\x1b[A':
                row -= 1
            elif part == '\r':
                column = 0
            elif part == '\n':
                row += 1
                rows += [[]] * (row == len(rows))
            elif len(part) == 1:
                rows[row] += ' ' * (column - len(rows[row]))
                rows[row][column:column + 1] = part
                column += 1
        return [''.join(row).rstrip() for row in rows]


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv('TERM', 'xterm')
    monkeypatch.delenv('SLURM_JOB_ID', raising=False)
    return Terminal()


def train(work_dir, epochs=2, fail=False, **options):
    """4 iterations an epoch, each logged; 4 of a validation after each."""
    loader = dict(
        batch_size=1,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=Zeros())
    runner = Runner(
        default_scope='mmpretrain',
        model=Toy(),
        work_dir=str(work_dir),
        experiment_name=f'{work_dir}-{epochs}',
        train_dataloader=loader,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.)),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        val_dataloader=loader,
        val_cfg=dict(),
        val_evaluator=[Metric()],
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
        custom_hooks=[dict(type='ProgressBarHook')],
        **options)
    runner.register_hook(Talk(fail))
    runner.train()
    return runner


def log_lines(work_dir):
    """From the first iteration on, without time and level."""
    lines = sorted(work_dir.glob('*/*.log'))[-1].read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if 'Epoch(train)' in line)
    return [line.split(' - ', 1)[1].rstrip() for line in lines[start:]]


def test_log_lines_stay_whole_above_the_bar(terminal, tmp_path):
    with terminal:
        runner = train(tmp_path)
        handler, = (handler for handler in runner.logger.handlers
                    if type(handler) is logging.StreamHandler)
        assert handler.stream is terminal.stream
    rows = terminal.rows()
    assert re.fullmatch(
        r'epoch 2/2 100% \|█{10}\| 8/8 +[\d.]+it/s left 00:00  loss 2.5  '
        r'loss_recon 0.5  loss_align_s8_t8 2', rows[-2])
    assert rows[-1] == ''  # where the shell goes on
    above = [row.split(' - ', 1)[-1] for row in rows[:-2]]
    lines = log_lines(tmp_path)
    assert len(lines) > 20
    sixth = next(i for i, line in enumerate(lines) if '[2][2/4]' in line)
    lines[sixth:sixth] = ['printed in two parts', 'a warning']
    assert above[-len(lines):] == lines
    assert not any('it/s' in row for row in rows[:-2])


def test_validation_has_a_bar_of_its_own(terminal, tmp_path):
    with terminal:
        train(tmp_path, epochs=1)
    drawn = terminal.output.decode()
    assert re.search(r'validation +0% \|.{10}\| 0/4', drawn)
    assert re.search(r'\n\rvalidation +50% ', drawn)  # below the other
    assert not any(row.startswith('validation') for row in terminal.rows())


def test_the_rate_is_that_of_the_training(terminal, monkeypatch):
    """A validation of 100 seconds between steps of one."""
    clock = 0.
    monkeypatch.setattr('tqdm.std.time', lambda: clock)
    with terminal:
        hook, runner = opened_hook(total=10, val_dataloader=[0])
        for runner.iter in range(6):
            clock += 1.
            hook.after_train_iter(runner, 0)
            if runner.iter == 2:
                hook.before_val_epoch(runner)
                clock += 100.
                hook.after_val_epoch(runner)
        bar = hook._bars['train']
        assert bar.format_dict['rate'] == pytest.approx(1)
        assert bar.format_dict['elapsed'] == pytest.approx(6)


def test_a_resumed_run_starts_where_it_stopped(terminal, tmp_path):
    with Terminal():
        train(tmp_path)
    with terminal:
        train(tmp_path, epochs=3, resume=True)
    first = re.search(r'training.*?(\d+)/(\d+)', terminal.output.decode())
    assert first.groups() == ('8', '12')
    assert terminal.rows()[-2].startswith('epoch 3/3 100%')


def test_what_ends_a_run_is_shown_above_too(terminal, tmp_path):
    """The hook is told of no exception: Python's last steps show it."""
    with terminal:
        with pytest.raises(RuntimeError, match='planted'):
            train(tmp_path, fail=True)
        sys.__excepthook__(RuntimeError, RuntimeError('planted'), None)
        module._SHOWN.close()  # as atexit does
    *_, error, bar, cursor = terminal.rows()
    assert error == 'RuntimeError: planted'
    assert bar.startswith('epoch 2/2  62%') and cursor == ''


def test_the_bar_of_a_run_that_was_given_up_goes_away(terminal, tmp_path):
    with terminal:
        with pytest.raises(RuntimeError, match='planted'):
            train(tmp_path / 'a', fail=True)
        train(tmp_path / 'b')
    bars = [row for row in terminal.rows() if '█' in row]
    assert [bar[:14] for bar in bars] == ['epoch 2/2  62%', 'epoch 2/2 100%']


@pytest.mark.parametrize('variable, value', [('TERM', 'dumb'), ('TERM', None),
                                             ('SLURM_JOB_ID', '1'),
                                             ('columns', 0), ('rank', 1)])
def test_no_bar(variable, value, terminal, tmp_path, monkeypatch):
    if variable == 'rank':
        monkeypatch.setattr(module, 'is_main_process', lambda: False)
    elif variable == 'columns':
        terminal.resize(0)
    elif value is None:
        monkeypatch.delenv(variable)
    else:
        monkeypatch.setenv(variable, value)
    with terminal:
        opened_hook(loss=1.)
        print('a line')
    assert terminal.output == b'a line\r\n'


def test_nothing_is_changed_in_a_pipe(tmp_path, monkeypatch):
    monkeypatch.setenv('TERM', 'xterm')
    with open(tmp_path / 'out', 'w+') as stream, \
            contextlib.redirect_stdout(stream):
        runner = train(tmp_path)
        assert sys.stdout is stream
        assert any(getattr(handler, 'stream', None) is stream
                   for handler in runner.logger.handlers)
        stream.seek(0)
        text = stream.read()
    assert '\r' not in text and 'it/s' not in text
    assert 'Epoch(train)' in text


def opened_hook(total=1000, val_dataloader=None, **losses):
    hub = MessageHub('bar')
    for name, value in losses.items():
        hub.update_scalar(f'train/{name}', value)
    runner = SimpleNamespace(
        max_iters=total,
        iter=0,
        val_dataloader=val_dataloader,
        message_hub=hub,
        logger=MMLogger.get_instance('bar'))
    hook = HOOKS.build(dict(type='ProgressBarHook'))
    hook.before_train(runner)
    return hook, runner


def test_steps_between_drawings_cost_nothing(terminal, monkeypatch):
    """At most four times a second the hub, and never a loss, is looked at."""
    looks = []
    monkeypatch.setattr(MessageHub, 'log_scalars',
                        property(lambda self: looks.append(1) or {}))
    clock = 0.
    monkeypatch.setattr('tqdm.std.time', lambda: clock)
    with terminal:
        hook, runner = opened_hook()
        bar = hook._bars['train']
        for runner.iter in range(1000):  # 1000 steps in 2 seconds
            clock += 0.002
            hook.after_train_iter(runner, 0, outputs=object())
        assert bar.n == 1000
        assert 7 <= len(looks) <= 8
        assert bar.format_dict['rate'] == pytest.approx(500, rel=1e-3)


@pytest.mark.parametrize('columns, wanted', [
    (300, r'training   0% \|.{10}\| 0/1000 .*  loss 12.34  loss_a 1.235e-07'),
    (70, r'training   0% \|.{10}\| 0/1000 [^a]*  loss 12.34'),
    (35, r'  0% 0/1000 left \?  loss 12.34'),
    (25, r'  0% 0/1000 left \?'),
])
def test_numbers_are_whole(columns, wanted, terminal):
    terminal.resize(columns)
    with terminal:
        opened_hook(lr=1., loss=12.3412, loss_a=1.2345678e-7)
    bar = terminal.rows()[-2]
    assert re.fullmatch(wanted, bar) and len(bar) <= columns


def test_options():
    with pytest.raises(TypeError, match='no option interval=5.*are: none'):
        HOOKS.build(dict(type='ProgressBarHook', interval=5))
