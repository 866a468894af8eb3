"""FullyShardedStrategy: what DDP trains, split over two processes."""
import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.config import Config
from mmpretrain.registry import MODELS
from torch.distributed.tensor import DTensor

from dmae_mm.engine import FullyShardedStrategy
from tests.toys.models import ROOT
from tests.toys.sharded_runs import config, train

pytestmark = pytest.mark.slow


def bytes_held(tensors):
    return sum(
        tensor.to_local().nbytes if isinstance(tensor, DTensor
                                               ) else tensor.nbytes
        for tensor in tensors)


def train_all(rank, root, port):
    """All the runs of these tests, in the same two processes."""
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE='2')
    dist.init_process_group('gloo')
    results = {}
    for name, strategy in dict(
            ddp=None,
            replicated=dict(),
            sharded=dict(shard_teacher=True),
            bfloat16=dict(block_dtype='bfloat16')).items():
        runner, losses = train(config(f'{root}/{name}', strategy))
        results[name] = dict(
            losses=losses,
            student=bytes_held(runner.model.parameters()),
            teacher=bytes_held(runner.model.module.teacher.parameters(
            ) if strategy is None else runner.model.teacher.parameters()))
    for name, strategy in dict(
            ddp_qkv=None, sharded_qkv=dict(shard_teacher=True)).items():
        cfg = config(f'{root}/{name}', strategy)
        # The last block learns only up to its qkv layer.
        cfg.model.update(
            neck=None, head=None, aligned_layers=[(-1, 3)],
            distill_loss=dict(type='QKVRelationLoss'))
        results[name] = dict(losses=train(cfg)[1])
    results['rest'] = train(
        config(
            f'{root}/resumed',
            dict(shard_teacher=True),
            resume=True,
            load_from=f'{root}/sharded/epoch_1.pth'))[1]
    cfg = config(
        f'{root}/changed', {},
        epochs=3,
        resume=True,
        load_from=f'{root}/sharded/epoch_1.pth')
    cfg.optim_wrapper.optimizer.update(lr=2e-3, weight_decay=0.1)
    cfg.param_scheduler.end = 5
    runner, results['changed'] = train(cfg)
    results['groups'] = [[group[key] for key in ('lr', 'weight_decay')]
                         for group in runner.optim_wrapper.param_groups]
    try:
        train(
            config(
                f'{root}/refused', {},
                resume=True,
                load_from=f'{root}/ddp/epoch_1.pth'))
    except ValueError as error:
        results['refusal'] = str(error)
    torch.save(results, f'{root}/rank{rank}.pt')
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = str(tmp_path_factory.mktemp('sharded'))
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    mp.spawn(train_all, (root, port), nprocs=2)
    return root


@pytest.fixture(scope='module')
def ranks(root):
    return [torch.load(f'{root}/rank{rank}.pt') for rank in range(2)]


def weights(path):
    return torch.load(
        path, map_location='cpu', weights_only=False)['state_dict']


@pytest.mark.parametrize('name, wanted', [('replicated', 'ddp'),
                                          ('sharded', 'ddp'),
                                          ('sharded_qkv', 'ddp_qkv')])
def test_losses_and_weights_are_those_of_ddp(root, ranks, name, wanted):
    for rank in ranks:
        assert len(rank[name]['losses']) == 4
        for ours, its in zip(rank[name]['losses'], rank[wanted]['losses']):
            assert ours == pytest.approx(its, rel=1e-5)
    ddp = weights(f'{root}/{wanted}/epoch_2.pth')
    ours = weights(f'{root}/{name}/epoch_2.pth')
    assert ddp.keys() == ours.keys()
    for key in ddp:
        torch.testing.assert_close(ours[key], ddp[key], rtol=1e-4, atol=1e-5)


def test_bfloat16_blocks_are_near(ranks):
    for ours, its in zip(ranks[0]['bfloat16']['losses'],
                         ranks[0]['ddp']['losses']):
        assert ours == pytest.approx(its, rel=2e-2)
        assert ours != its


def test_each_process_holds_its_share(ranks):
    whole = ranks[0]['ddp']
    assert sum(rank['sharded']['student']
               for rank in ranks) == whole['student']
    for rank in ranks:
        assert rank['sharded']['student'] < 0.55 * whole['student']
        assert rank['replicated']['student'] == rank['sharded']['student']
        assert rank['replicated']['teacher'] == whole['teacher']
        # Without a backward pass, what is not in blocks stays gathered.
        assert rank['sharded']['teacher'] < 0.6 * whole['teacher']


def test_a_resumed_run_equals_the_uninterrupted_one(root, ranks):
    for rank in ranks:
        assert rank['rest'] == rank['sharded']['losses'][2:]
    whole = weights(f'{root}/sharded/epoch_2.pth')
    resumed = weights(f'{root}/resumed/epoch_2.pth')
    for key in whole:
        assert torch.equal(whole[key], resumed[key]), key


def test_a_changed_config_is_applied(ranks):
    """After 1 of 3 epochs, where a warm-up of 3 and then of 5 was asked."""
    for rank in ranks:
        assert len(rank['changed']) == 4
        # From a third to the whole in 4 steps, 3 of which are done.
        lr = 2e-3 * (1 / 3 + 3 / 4 * 2 / 3)
        assert [group[0] for group in rank['groups']] == pytest.approx(
            [lr] * len(rank['groups']), rel=1e-12)
        assert {group[1] for group in rank['groups']} == {0., 0.1}


def test_checkpoint_is_a_plain_file(root, toy_model):
    model = MODELS.build(toy_model)
    checkpoint = weights(f'{root}/sharded/epoch_2.pth')
    assert not model.load_state_dict(checkpoint).missing_keys
    assert {type(tensor) for tensor in checkpoint.values()} == {torch.Tensor}
    # The same teacher, whether sharded or not.
    assert torch.load(
        f'{root}/sharded/epoch_2.pth',
        weights_only=False)['meta']['teacher']['fingerprint'] == torch.load(
            f'{root}/ddp/epoch_2.pth',
            weights_only=False)['meta']['teacher']['fingerprint']


def test_an_optimizer_from_ddp_is_refused(ranks):
    assert 'run without FullyShardedStrategy' in ranks[0]['refusal']
    assert 'load_from=CHECKPOINT' in ranks[0]['refusal']


def test_checkpoints_are_written_whole(tmp_path, monkeypatch):
    strategy = FullyShardedStrategy(work_dir=str(tmp_path))
    strategy._seed = 0
    strategy.model_state_dict = dict
    path = tmp_path / 'epoch_1.pth'
    path.write_bytes(b'before')

    def dies(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, 'fsync', dies)
    with pytest.raises(KeyboardInterrupt):
        strategy.save_checkpoint(str(path))
    assert path.read_bytes() == b'before'


def test_other_dtypes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="block_dtype='float16' is none of"):
        FullyShardedStrategy(
            work_dir=str(tmp_path), block_dtype='float16')


def test_a_model_without_blocks_is_refused(tmp_path):
    strategy = FullyShardedStrategy(
        work_dir=str(tmp_path), blocks=['Nothing'])
    with pytest.raises(ValueError, match=r"blocks=\['Nothing'\]: Linear has"):
        strategy._shard(torch.nn.Linear(1, 1), 'float32')


def test_config():
    cfg = Config.fromfile(
        ROOT / 'configs' / 'scaling' / 'vit-l_dmae-fsdp_in1k.py')
    assert cfg.runner_type == 'FlexibleRunner'
    assert cfg.optim_wrapper.type == 'OptimWrapper'
    assert 16 * cfg.train_dataloader.batch_size * \
        cfg.optim_wrapper.accumulative_counts == 4096
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert (model.backbone.embed_dims, len(model.backbone.layers)) == (1024,
                                                                       24)
    assert model.teacher.embed_dims == 1280
