"""FullyShardedStrategy: what DDP trains, split over two processes."""
import copy
import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmpretrain.registry import MODELS
from torch.distributed.tensor import DTensor
from torch.utils.data import Dataset

from dmae_mm.engine import FullyShardedStrategy
from tests.conftest import ROOT, TOY_MODEL


class Noise(Dataset):
    metainfo: dict = {}

    def __len__(self):
        return 16

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return dict(
            inputs=torch.randint(
                0, 256, (3, 32, 32), generator=generator, dtype=torch.uint8),
            data_samples=0)


def config(work_dir, strategy=None, epochs=2, **changes):
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            model=dict(
                copy.deepcopy(TOY_MODEL),
                data_preprocessor=dict(
                    type='SelfSupDataPreprocessor',
                    mean=[127.5] * 3,
                    std=[127.5] * 3)),
            work_dir=str(work_dir),
            experiment_name=f'{work_dir}-{epochs}-{changes}',
            train_dataloader=dict(
                batch_size=4,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=True),
                collate_fn=dict(type='default_collate'),
                dataset=dict(type=Noise)),
            optim_wrapper=dict(
                type='OptimWrapper',
                optimizer=dict(type='AdamW', lr=1e-3),
                paramwise_cfg=dict(flat_decay_mult=0.)),
            param_scheduler=dict(type='LinearLR', end=3),
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            custom_hooks=[
                dict(type='ExactResumeHook'),
                dict(type='TeacherHook')
            ],
            randomness=dict(seed=0),
            launcher='pytorch',
            env_cfg=dict(dist_cfg=dict(backend='gloo')),
            log_level='ERROR',
            **changes))
    if strategy is None:
        cfg.model_wrapper_cfg = dict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False)
    else:
        cfg.runner_type = 'FlexibleRunner'
        cfg.strategy = dict(type='FullyShardedStrategy', **strategy)
    return cfg


def train(cfg):
    runner = RUNNERS.build(cfg)
    losses = []

    class Record(Hook):

        def after_train_iter(self, runner, batch_idx, data_batch, outputs):
            losses.append(
                {name: float(value.detach())
                 for name, value in outputs.items()})

    runner.register_hook(Record())
    runner.train()
    return runner, losses


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
    results['rest'] = train(
        config(
            f'{root}/resumed',
            dict(shard_teacher=True),
            resume=True,
            load_from=f'{root}/sharded/epoch_1.pth'))[1]
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


@pytest.mark.parametrize('name', ['replicated', 'sharded'])
def test_losses_and_weights_are_those_of_ddp(root, ranks, name):
    for rank in ranks:
        assert len(rank[name]['losses']) == 4
        for ours, its in zip(rank[name]['losses'], rank['ddp']['losses']):
            assert ours == pytest.approx(its, rel=1e-5)
    ddp = weights(f'{root}/ddp/epoch_2.pth')
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
    strategy = FullyShardedStrategy()
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


def test_other_dtypes_are_refused():
    with pytest.raises(ValueError, match="block_dtype='float16' is none of"):
        FullyShardedStrategy(block_dtype='float16')


def test_a_model_without_blocks_is_refused():
    strategy = FullyShardedStrategy(blocks=['Nothing'])
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
