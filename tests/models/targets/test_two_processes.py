"""The statistics of targets in two processes: those of all their tokens."""
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from dmae_mm.models import PHIStandardize, Standardize

TOKENS = 1e2 + torch.randn(
    3, 5, 10, 12, generator=torch.Generator().manual_seed(0))  # three steps


def _learn(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', f'file://{folder}/meeting', rank=rank, world_size=2)
    # Of five images the first has two and the second three.
    mine = TOKENS[:, :2] if rank == 0 else TOKENS[:, 2:]
    phi, running, compiled = (
        PHIStandardize(12), Standardize(12), Standardize(12))
    step = torch.compile(compiled, backend='eager', fullgraph=True)
    for tokens in mine:
        phi.accumulate(tokens)
        running(tokens, True)
        step(tokens, True)
    phi.finish()
    one = Standardize(12, momentum=1.0)  # CLS of one image in each process
    one(mine[0, :1], True)
    torch.save([
        target.state_dict() for target in (phi, running, compiled, one)
    ], f'{folder}/{rank}.pt')
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def learned(tmp_path_factory):
    folder = tmp_path_factory.mktemp('targets')
    mp.start_processes(_learn, (folder, ), nprocs=2, start_method='fork')
    return [
        torch.load(folder / f'{rank}.pt', weights_only=True)
        for rank in range(2)
    ]


def test_both_have_the_same_to_the_bit(learned):
    for first, second in zip(*learned):
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_they_are_those_of_one_process(learned):
    phi, running = PHIStandardize(12), Standardize(12)
    phi.fit(TOKENS)
    for tokens in TOKENS:
        running(tokens, True)
    one = Standardize(12, momentum=1.0)
    one(TOKENS[0, [0, 2]], True)
    for target, states in zip((phi, running, running, one), learned[0]):
        for name, value in target.state_dict().items():
            torch.testing.assert_close(
                states[name], value, rtol=1e-5, atol=1e-6)
