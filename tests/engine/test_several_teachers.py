"""Runs with two teachers, whose targets have statistics: resumed, refused."""
import copy
import os
import shutil
import socket
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.config import Config
from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS, MODELS

from dmae_mm.engine.hooks import TeacherHook
from dmae_mm.engine.replay import Replay
from dmae_mm.engine.step_dump import read_dump
from tests.toys import sharded_runs
from tests.toys.models import TOY_MODEL
from tests.toys.planted_nan import planted, train
from tests.toys.resumable_runs import (BATCHES, assert_same_checkpoints,
                                       ended_by, resumable, start)
from tests.toys.runs import config, run, with_two_teachers

LOSSES = [
    'loss', 'loss_recon', 'loss_align_dino_s3_t3', 'loss_align_mae_s1_t1',
    'loss_align_mae_s2_t3'
]


def average_of(runner):
    average, = (hook.ema_model.module for hook in runner.hooks
                if type(hook).__name__ == 'EMAHook')
    return average


def statistics(model):
    return {
        name: value.clone()
        for name, value in model.state_dict().items() if 'target' in name
    }


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys() and ours
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


@HOOKS.register_module(force=True)
class CountCalls(Hook):
    """How often teachers are run before the first step."""

    def before_run(self, runner):
        self.calls, self.counting = 0, True
        for teacher in runner.model.teachers.values():
            teacher.register_forward_hook(self.count)

    def count(self, *args):
        self.calls += self.counting

    def before_train_epoch(self, runner):
        self.counting = False


def test_goes_on_exactly_inside_an_epoch(photos, tmp_path):
    """Accumulation, an average, dropped teachers, measured and running."""
    whole, cfg = (
        with_two_teachers(
            resumable(photos, tmp_path / name, counts=2,
                      mid_epoch_interval=2), teacher_dropping=0.5)
        for name in ('whole', 'parts'))
    for each in (whole, cfg):
        each.custom_hooks[-2].update(update_buffers=True)
        assert each.custom_hooks[-2].type == 'EMAHook'
    runner, wanted = start(whole)
    for step in wanted.steps:
        assert set(LOSSES) < step.keys()
        assert step['loss'] == pytest.approx(
            sum(step[name] for name in LOSSES[1:]))
    hooks = [CountCalls() for _ in range(2)]
    crashed, before = start(
        cfg, crash_after=BATCHES + 3, hooks=hooks[:1])
    assert ended_by(crashed) == 'Crash'
    cfg.dump(tmp_path / 'dumped.py')  # in which dino comes before mae
    cfg = Config.fromfile(tmp_path / 'dumped.py')
    resumed, after = start(cfg, resume=True, hooks=hooks[1:])
    assert [hook.calls for hook in hooks] == [5, 0]
    assert before.steps == wanted.steps[:BATCHES + 3]
    assert after.steps == wanted.steps[BATCHES + 2:]
    assert_same_checkpoints(tmp_path / 'parts' / 'epoch_3.pth',
                            tmp_path / 'whole' / 'epoch_3.pth')
    ours = statistics(resumed.model)
    assert_equal(ours, statistics(runner.model))
    assert ours['distill_targets.dino.0.num_updates'] == 3 * BATCHES
    assert ours['distill_targets.mae.1.is_fitted']
    # What was measured is not averaged away.
    measured = {name: value for name, value in ours.items() if 'mae' in name}
    assert_equal({name: average_of(resumed).state_dict()[name]
                  for name in measured}, measured)
    assert average_of(resumed).teachers.keys() == {'mae', 'dino'}
    for name, teacher in resumed.model.teachers.items():
        assert average_of(resumed).teachers[name] is teacher


class TestTeacherHook:
    """What a checkpoint says about teachers, and what may resume it."""

    @pytest.fixture(scope='class')
    @staticmethod
    def saved(photos, tmp_path_factory):
        cfg = config(photos, tmp_path_factory.mktemp('saved'), 1)
        cfg = with_two_teachers(cfg)
        return cfg, run(cfg)[0]

    def test_fingerprints_are_by_name(self, saved):
        cfg, runner = saved
        meta = torch.load(
            f'{cfg.work_dir}/epoch_1.pth', weights_only=False)['meta']
        assert 'teacher' not in meta
        assert {name: said['fingerprint']
                for name, said in meta['teachers'].items()} == {
                    name: teacher.fingerprint()
                    for name, teacher in runner.model.teachers.items()
                }
        assert meta['teachers']['mae']['aligned_blocks'] == [1, 3]

    def refusal(self, saved, change):
        cfg = copy.deepcopy(saved[0])
        change(cfg.model)
        cfg.train_cfg.max_epochs = 2
        with pytest.raises(ValueError) as error:
            run(cfg, resume=True)
        return str(error.value)

    def test_another_teacher_is_refused_by_name(self, saved):
        said = self.refusal(
            saved, lambda model: model.teachers.dino.update(
                aligned_layers=[(3, 1)]))
        assert "another teacher as 'dino': type=MMPretrainTeacher" in said
        assert 'aligned_blocks=[3]' in said and 'aligned_blocks=[1]' in said
        assert 'resume=False' in said and "'mae'" not in said

    def test_another_set_of_teachers_is_refused(self, saved):

        def rename(model):
            model.teachers.dinov2 = model.teachers.pop('dino')

        assert ('was started with teachers dino, mae; the config has teachers '
                'dinov2, mae') in self.refusal(saved, rename)

    def test_one_teacher_is_another_set(self, saved):
        single = MODELS.build(copy.deepcopy(TOY_MODEL))
        with pytest.raises(
                ValueError,
                match='started with teachers dino, mae; the config has a '
                'single teacher'):
            TeacherHook().after_load_checkpoint(
                SimpleNamespace(_resume=True, model=single),
                torch.load(f'{saved[0].work_dir}/epoch_1.pth',
                           weights_only=False))

    def test_the_same_resume(self, saved, tmp_path):
        _, losses = run(
            saved[0], resume=True,
            load_from=f'{saved[0].work_dir}/epoch_1.pth',
            work_dir=str(tmp_path),
            train_cfg=dict(max_epochs=2))
        assert len(losses) == 4 and list(losses[0]) == LOSSES


@HOOKS.register_module(force=True)
class SpoilTwoTeachersHead(Hook):
    """One loss of the 3rd step becomes infinite, the others stay."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 2:
            runner.model.head.loss_module.register_forward_hook(
                lambda module, args, loss: loss * torch.inf)


def test_a_dumped_step_is_repeated(photos, tmp_path):
    """With what the statistics were, and what was dropped."""
    cfg = with_two_teachers(
        planted(photos, tmp_path, [], 1), teacher_dropping=0.5)
    cfg.custom_hooks.append(dict(type='SpoilTwoTeachersHead'))
    runner, _, message = train(cfg, stops=True)
    assert 'loss_recon=inf in iteration 3' in message
    dump = read_dump(str(tmp_path / 'nonfinite_iter_3_rank_0.pth'))
    assert dump['teachers'].keys() == {'mae', 'dino'}
    assert dump['weights']['distill_targets.dino.0.num_updates'] == 2
    dump['teachers']['dino'] = 'another'
    said = []
    Replay(copy.deepcopy(runner.cfg), dump, torch.device('cpu'),
           said.append).run()
    assert ("WARNING: this teacher 'dino' is not the one of the run"
            in said[0])
    lines = {line.split()[0]: line for line in said if ' ' in line.strip()}
    for name in LOSSES[2:]:
        assert name in lines and 'differs' not in lines[name]
    assert lines['loss_recon'].endswith('inf   differs')


def test_a_broken_image_does_not_spoil_the_statistics(photos, tmp_path):
    """Its step is left out, the run goes on."""
    cfg = with_two_teachers(
        planted(photos, tmp_path, ['07.png'], 1, max_skips=1))
    cfg.model.teachers.mae.target.num_images = 7  # in the order: without it
    runner, watch, _ = train(cfg)
    bad = [step['loss_align_dino_s3_t3'] for step in watch.losses]
    assert [step != step for step in bad] == [False, True, False, False]
    assert all(value.isfinite().all()
               for value in statistics(runner.model).values())


class KeepInside(Hook):
    """Keeps the checkpoint of the second step of the second epoch."""
    priority = 'LOWEST'

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        if runner.iter + 1 == 6 and runner.rank == 0:
            shutil.copy(f'{runner.work_dir}/mid_epoch.pth',
                        f'{runner.work_dir}/inside.pth')


def _ddp(photos, work_dir):
    """Three epochs of 4 batches, two of which are an optimizer step."""
    cfg = with_two_teachers(
        resumable(photos, work_dir, counts=2, mid_epoch_interval=2),
        teacher_dropping=0.5)
    cfg.train_dataloader.batch_size = 2
    cfg.launcher = 'pytorch'
    cfg.randomness = dict(seed=0, diff_rank_seed=True)
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel', device_ids=None,
        broadcast_buffers=False)
    return cfg


def _train_all(rank, photos, root, port):
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE='2')
    dist.init_process_group('gloo')
    runner, whole = start(_ddp(photos, f'{root}/ddp'), hooks=[KeepInside()])
    cfg = _ddp(photos, f'{root}/ddp-resumed')
    cfg.load_from = f'{root}/ddp/inside.pth'
    again, rest = start(cfg, resume=True)
    for step in (*whole.steps, *rest.steps):
        del step['logged']  # averages, which are the first process's in a file
    results = dict(ddp=dict(
        whole=whole.steps[6:],
        rest=rest.steps,
        statistics=statistics(runner.model.module),
        again=statistics(again.model.module),
        average=statistics(average_of(runner)),
        reduced=[name for name, _ in runner.model.named_parameters()]))

    def sharded(name, **changes):
        return sharded_runs.train(
            with_two_teachers(
                sharded_runs.config(
                    f'{root}/{name}', dict(shard_teacher=True), **changes),
                teacher_dropping=0.5))

    runner, whole = sharded('sharded')
    again, rest = sharded(
        'sharded-resumed', resume=True,
        load_from=f'{root}/sharded/epoch_1.pth')
    results['sharded'] = dict(
        whole=whole[2:],
        rest=rest,
        statistics=statistics(runner.model),
        again=statistics(again.model))
    torch.save(results, f'{root}/rank{rank}.pt')
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def root(photos, tmp_path_factory):
    root = str(tmp_path_factory.mktemp('two'))
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    mp.spawn(_train_all, (photos, root, port), nprocs=2)
    return root


@pytest.mark.slow
class TestTwoProcesses:

    @pytest.fixture(scope='class')
    @staticmethod
    def ranks(root):
        return [torch.load(f'{root}/rank{rank}.pt', weights_only=False)
                for rank in range(2)]

    @pytest.mark.parametrize('name, steps', [('ddp', 12), ('sharded', 4)])
    def test_statistics_are_equal_everywhere(self, ranks, name, steps):
        first, second = (rank[name]['statistics'] for rank in ranks)
        assert_equal(first, second)
        assert first['distill_targets.dino.0.num_updates'] == steps
        assert first['distill_targets.mae.0.is_fitted']
        if name == 'ddp':
            for rank in ranks:
                assert_equal(rank[name]['average'], first)
                assert not any('teacher' in key
                               for key in rank[name]['reduced'])

    @pytest.mark.parametrize('name, file, left', [
        ('ddp', 'epoch_3.pth', 6), ('sharded', 'epoch_2.pth', 2)])
    def test_a_resumed_run_equals_the_uninterrupted_one(
            self, root, ranks, name, file, left):
        for rank in ranks:
            assert rank[name]['rest'] == rank[name]['whole']
            assert len(rank[name]['rest']) == left
            assert_equal(rank[name]['again'], rank[name]['statistics'])
        assert ranks[0][name]['rest'] != ranks[1][name]['rest']
        whole, resumed = (
            torch.load(f'{root}/{work_dir}/{file}', weights_only=False)
            for work_dir in (name, f'{name}-resumed'))
        assert whole['meta']['teachers'].keys() == {'mae', 'dino'}
        if name == 'ddp':
            assert_same_checkpoints(f'{root}/ddp/{file}',
                                    f'{root}/ddp-resumed/{file}')
        assert_equal(resumed['state_dict'], whole['state_dict'])
