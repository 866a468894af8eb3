"""Kill a training at random moments, again and again, and see what is lost.

A run on handwritten digits is killed (SIGKILL) while it starts, trains and
writes checkpoints, and is resumed each time. In the end its weights, its
optimizer and its schedules must be those of an undisturbed run, bit for bit.
"""
import argparse
import glob
import os
import os.path as osp
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import Callable, Dict, List, Optional, Set

ROOT = osp.dirname(osp.dirname(osp.abspath(__file__)))
# A clone runs its own code, installed or not: see train.py.
sys.path.insert(0, ROOT)

TRAIN = osp.join(ROOT, 'tools', 'train.py')
CONFIG = osp.join(ROOT, 'configs', 'digits', 'vit-student_dmae_digits.py')
STARTED = 'Checkpoints will be saved to'  # the hook, before the first step
TIMEOUT = 600.0
MOMENTS = ('starting', 'training', 'writing')

Start = Callable[[List[str], str], int]


def start_process(arguments: List[str], log: str) -> int:
    """Start tools/train.py.

    Args:
        arguments (list[str]): Of its command line.
        log (str): File for what it prints, emptied before.

    Returns:
        int: Its process id.
    """
    with open(log, 'w') as file:
        return subprocess.Popen([sys.executable, TRAIN, *arguments],
                                stdout=file,
                                stderr=subprocess.STDOUT).pid


def exit_status(pid: int) -> Optional[int]:
    """Of a child process; None while it runs."""
    done, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def read(path: str) -> str:
    with open(path, errors='replace') as file:
        return file.read()


class KillTest:
    """One run, killed many times, beside one that is not.

    Args:
        folder (str): Gets the folders ``undisturbed`` and ``killed``.
        kills (int): How many times.
        arguments (list[str]): Of tools/train.py, but for ``--work-dir`` and
            ``--resume``.
        start (callable): As :func:`start_process`.
        seed (int): Of the moments.
    """

    def __init__(self, folder: str, kills: int, arguments: List[str],
                 start: Start, seed: int) -> None:
        self.folder, self.kills = folder, kills
        self.arguments, self.start = arguments, start
        self.random = random.Random(seed)
        self.work_dir = osp.join(folder, 'killed')
        self.log = osp.join(folder, 'start.log')
        self.counts: Counter = Counter()
        self.leftovers: Set[str] = set()

    def undisturbed(self) -> float:
        """Run without interruption; the seconds from its first step on."""
        work_dir = osp.join(self.folder, 'undisturbed')
        pid = self.start([*self.arguments, '--work-dir', work_dir], self.log)
        began = self._first_step(pid)
        self._wait(pid, lambda: False)
        if not osp.isfile(osp.join(work_dir, 'last_checkpoint')):
            self._fail('does not end well')
        return time.monotonic() - began

    def run(self) -> Dict[str, int]:
        """Kill and resume until the run is done.

        Returns:
            dict[str, int]: Kills by what they fell into.
        """
        print('The undisturbed run ...', flush=True)
        seconds = self.undisturbed()
        print(f'It trains for {seconds:.1f} s.\n kill  in         goes on at '
              ' seconds left', flush=True)
        # Half as long on average: the run must not be done before the last.
        window = seconds / self.kills
        began = time.monotonic()
        for number in range(1, self.kills + 1):
            moment = self._one_life(window)
            self.counts[moment] += 1
            left = (time.monotonic() - began) / number * (self.kills - number)
            print(f'{number:>5}  {moment:10} {self._position():>10}  '
                  f'{left:12.0f}', flush=True)
        self._wait(self._resume(), lambda: False)
        return dict(self.counts)

    def _resume(self) -> int:
        return self.start(
            [*self.arguments, '--work-dir', self.work_dir, '--resume'],
            self.log)

    def _one_life(self, window: float) -> str:
        """Start, kill, and check what is left; what the kill fell into."""
        wanted, = self.random.choices(MOMENTS, weights=(1, 4, 5))
        self.leftovers = self._unfinished()  # of the kill before
        pid = self._resume()
        # Somewhere before the first step, or soon after it.
        began, longest = time.monotonic(), 5.
        if wanted != 'starting':
            began, longest = self._first_step(pid), window
        until = began + self.random.uniform(0, longest)
        self._wait(pid, lambda: time.monotonic() >= until)
        if wanted == 'writing':
            self._wait(pid, self._is_writing, pause=0)
        os.kill(pid, signal.SIGKILL)
        # Not only begun: this is what a crash of the machine leaves.
        while exit_status(pid) is None:
            time.sleep(0.01)
        moment = ('writing' if self._is_writing() else 'training'
                  if STARTED in read(self.log) else 'starting')
        self._check()
        return moment

    def _first_step(self, pid: int) -> float:
        """Wait for it; the time."""
        began = self._wait(pid, lambda: STARTED in read(self.log))
        if began is None:
            self._fail('ends before it trains')
        return began

    def _wait(self,
              pid: int,
              condition: Callable[[], bool],
              pause: float = 0.01) -> Optional[float]:
        """Until something is so; the time, or None if the process is done."""
        limit = time.monotonic() + TIMEOUT
        while not condition():
            status = exit_status(pid)
            if status == 0:
                return None
            if status is not None:
                self._fail(f'ends with status {status}')
            if time.monotonic() > limit:
                os.kill(pid, signal.SIGKILL)
                self._fail(f'is not done after {TIMEOUT:.0f} s')
            time.sleep(pause)
        return time.monotonic()

    def _unfinished(self) -> Set[str]:
        """Files that are being written, or were: see dmae_mm/files.py."""
        return set(glob.glob(osp.join(self.work_dir, '.writing-*', '*')))

    def _is_writing(self) -> bool:
        return not self._unfinished() <= self.leftovers

    def _check(self) -> None:
        """What is left must be usable."""
        from dmae_mm.engine.checkpointing import damage

        last = osp.join(self.work_dir, 'last_checkpoint')
        if not osp.isfile(last):
            return  # killed before the first one
        problem = damage(read(last))
        if problem is not None:
            self._fail(f'left {read(last)!r} as the last: {problem}')

    def _position(self) -> str:
        from dmae_mm.weights.safe_load import load_training_checkpoint
        last = osp.join(self.work_dir, 'last_checkpoint')
        if not osp.isfile(last):
            return '0'
        return str(
            load_training_checkpoint(read(last), last)['meta']['iter'])

    def _fail(self, what: str) -> None:
        raise SystemExit(f'A start {what}. It printed, at the end:\n'
                         f'{read(self.log)[-2000:]}')

    def differences(self) -> List[str]:
        """What the two runs ended with, where it differs."""
        from studies.compare_checkpoints import (checkpoint_content,
                                                 differences)
        ours, theirs = (
            checkpoint_content(
                read(osp.join(self.folder, name, 'last_checkpoint')))
            for name in ('killed', 'undisturbed'))
        print(f'{len(theirs)} tensors and numbers compared.')
        return differences(ours, theirs)


def main(arguments: Optional[List[str]] = None,
         start: Start = start_process) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split('\n')[0],
        epilog='What follows -- goes to tools/train.py.')
    parser.add_argument('--kills', type=int, default=50)
    parser.add_argument(
        '--work-dir',
        default=osp.join('work_dirs', 'kill_test'),
        help='a new folder for both runs; defaults to %(default)s')
    parser.add_argument('--seed', type=int, default=0, help='of the moments')
    parser.add_argument('--config', default=CONFIG)
    parser.add_argument('train_arguments', nargs='*', metavar='ARGUMENT')
    args = parser.parse_args(arguments)
    if args.kills < 1:
        parser.error(f'--kills {args.kills} is not a number of at least 1')
    if osp.exists(args.work_dir):
        parser.error(f'{args.work_dir} exists already: choose another folder '
                     'with --work-dir, or delete it')
    train_arguments = [args.config, *args.train_arguments]
    if args.config == CONFIG and not args.train_arguments:
        from dmae_mm.evaluation.digits import write_digits
        write_digits()
        train_arguments += [
            '--cfg-options', 'model.teacher.checkpoint=None',
            'model.teacher.allow_random=True',
            'default_hooks.checkpoint.interval=1',
            'default_hooks.checkpoint.mid_epoch_interval=4'
        ]
    os.makedirs(args.work_dir)
    test = KillTest(args.work_dir, args.kills, train_arguments, start,
                    args.seed)
    began = time.monotonic()
    counts = test.run()
    minutes = (time.monotonic() - began) / 60
    print(f'\n{args.kills} kill{"s" * (args.kills > 1)} in {minutes:.1f} '
          'minutes: ' + ', '.join(f'{counts.get(name, 0)} while {name}'
                                  for name in MOMENTS) + '.')
    different = test.differences()
    if different:
        sys.exit(f'NOT EQUAL to the undisturbed run: {len(different)} of '
                 f'them, {", ".join(different[:5])} ...')
    print('Every restart resumed. The last checkpoint equals that of the '
          'undisturbed run, bit for bit.')


if __name__ == '__main__':
    main()
