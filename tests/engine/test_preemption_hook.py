"""A signal saves, ends all processes together, and says so."""
import os
import os.path as osp
import signal
import socket
import time

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from dmae_mm.engine.hooks.preemption_hook import (SAME_SIGNAL, Preempted,
                                                  PreemptionHook,
                                                  outlive_signals)
from tests.toys.resumable_runs import (BATCHES, assert_same_checkpoints,
                                       contents, ended_by, resumable, start)


def test_stopping_waits_for_the_optimizer(photos, tmp_path):  # noqa: F811
    runner, watch = start(
        resumable(photos, tmp_path, counts=4), signal_in=5)
    assert len(watch.steps) == 8 and ended_by(runner) == 'Preempted'


def test_the_exit_status():
    assert Preempted(signal.SIGTERM).code == 75
    assert Preempted(signal.SIGUSR1).code == 75
    assert Preempted(signal.SIGINT).code == 130


def test_ctrl_c_saves_and_is_resumed_on_demand(
        photos, tmp_path, capfd):  # noqa: F811
    cfg = resumable(photos, tmp_path)
    cfg.log_level = 'INFO'
    runner, watch = start(cfg, signal_in=5, number=signal.SIGINT)
    assert len(watch.steps) == 5 and ended_by(runner) == 'Preempted'
    assert (tmp_path / 'last_checkpoint').read_text().endswith('mid_epoch.pth')
    assert not (tmp_path / 'preempted.json').exists()
    said = ''.join(capfd.readouterr())
    assert said.count('Ctrl-C: saving after this step') == 1
    assert ('SIGINT after iteration 5. All is saved. '
            'Start it with --resume') in said


def test_a_stock_loop_stops_without_saving(photos, tmp_path):  # noqa: F811
    """It could not go on from there."""
    cfg = resumable(photos, tmp_path)
    cfg.train_cfg.type = 'EpochBasedTrainLoop'
    cfg.log_level = 'INFO'
    runner, watch = start(cfg, signal_in=BATCHES + 2)
    assert ended_by(runner) == 'Preempted'
    assert (tmp_path / 'last_checkpoint').read_text().endswith('epoch_1.pth')
    assert sorted(contents(tmp_path)) == ['epoch_1.pth']
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'go on from the last checkpoint' in log
    assert "type='ResumableTrainLoop'" in log
    _, after = start(cfg, resume=True)
    assert after.steps[:2] == watch.steps[BATCHES:]


def _preempted_on_rank(rank, photos, work_dir, port, signalled):  # noqa: F811
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    os.environ['LOCAL_RANK'] = '0'
    seen = []
    for name, after in (('whole', None), ('parts', signalled),
                        ('parts', None)):
        cfg = resumable(photos, osp.join(work_dir, name), num_workers=0)
        cfg.train_dataloader.batch_size = 2  # 4 batches an epoch, each rank
        cfg.launcher = 'pytorch'
        cfg.randomness = dict(seed=0, diff_rank_seed=True)
        cfg.model_wrapper_cfg = dict(
            type='MMDistributedDataParallel', device_ids=None,
            broadcast_buffers=False, find_unused_parameters=False)
        resume = len(seen) == 2
        runner, watch = start(
            cfg, resume, signal_in=after if rank == 1 else None)
        seen.append((ended_by(runner), watch.steps))
        dist.barrier()
    torch.save(seen, osp.join(work_dir, f'rank{rank}.pt'))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_stop_and_go_on_together(
        photos, tmp_path):  # noqa: F811
    """The signal comes to one of them, inside the first epoch."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    mp.spawn(
        _preempted_on_rank, (photos, str(tmp_path), port, 2), nprocs=2)
    ranks = [
        torch.load(tmp_path / f'rank{rank}.pt', weights_only=False)
        for rank in range(2)
    ]
    for rank, ((_, whole), (ended, before), (done, after)) in enumerate(ranks):
        assert (ended, done) == ('Preempted', 'NoneType')
        # Agreed on with the 6th iteration, known with the 11th, in an epoch.
        assert len(before) == 11 and len(whole) == 12
        if rank:  # rank 0 logs, and its averages are in the checkpoint
            for step in (*whole, *before, *after):
                del step['logged']
        assert before + after == whole
    assert ranks[0][0][1] != ranks[1][0][1]
    assert_same_checkpoints(tmp_path / 'parts' / 'epoch_3.pth',
                            tmp_path / 'whole' / 'epoch_3.pth')


def test_workers_outlive_the_signals_of_others(tmp_path):
    """Else a scheduler that signals all processes would break the run."""
    ready = tmp_path / 'ready'
    worker = os.fork()
    if not worker:
        outlive_signals(0, then=lambda worker_id: ready.touch())
        time.sleep(60)
        os._exit(1)
    while not ready.exists():
        time.sleep(0.01)
    other = os.fork()
    if not other:
        os.kill(worker, signal.SIGUSR1)
        os.kill(worker, signal.SIGINT)
        os.kill(worker, signal.SIGTERM)
        os._exit(0)
    os.waitpid(other, 0)
    time.sleep(0.3)
    assert os.waitpid(worker, os.WNOHANG) == (0, 0)
    os.kill(worker, signal.SIGTERM)  # from its own process
    assert os.waitpid(worker, 0)[1] == 0


def test_workers_where_no_sender_is_named(tmp_path):
    """As on macOS: SIGTERM ends a worker, the others do not."""
    ready = tmp_path / 'ready'
    worker = os.fork()
    if not worker:
        del signal.sigwaitinfo
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        outlive_signals(0, then=lambda worker_id: ready.touch())
        time.sleep(60)
        os._exit(1)
    while not ready.exists():
        time.sleep(0.01)
    os.kill(worker, signal.SIGUSR1)
    os.kill(worker, signal.SIGINT)
    time.sleep(0.3)
    assert os.waitpid(worker, os.WNOHANG) == (0, 0)
    os.kill(worker, signal.SIGTERM)
    status = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    assert status == -signal.SIGTERM


def test_a_second_signal_ends_at_once():
    """But not the same one, passed on by a launcher."""
    child = os.fork()
    if not child:
        hook = PreemptionHook()
        hook._pid = os.getpid()
        hook._receive(signal.SIGTERM, None)
        hook._receive(signal.SIGUSR1, None)
        hook._since -= SAME_SIGNAL + 0.1
        hook._receive(signal.SIGUSR1, None)
        os._exit(0)  # not reached
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == -signal.SIGUSR1
