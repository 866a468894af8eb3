import torch
import torch.nn as nn

from dmae_mm.weights.misfits import misfits, strict_misfits


def test_exactly_a_networks_own():
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    own = network.state_dict()
    assert strict_misfits(own, network) == []
    changed = dict(own, other=torch.ones(1))
    del changed['1.num_batches_tracked']
    changed['0.weight'] = torch.ones(3, 3)
    changed['0.bias'] = torch.tensor([1., float('inf'), 0.])
    changed['1.weight'] = torch.ones(3, dtype=torch.int64)
    assert strict_misfits(changed, network) == [
        '0.weight has shape (3, 3) instead of (3, 2)',
        '0.bias has values that are not finite as torch.float32',
        '1.weight has values of type torch.int64',
        '1.num_batches_tracked is missing', 'other is unknown'
    ]


def test_part_of_a_network():
    known = ['cls_token', 'layers.0.w', 'layers.1.w']
    needed = {'cls_token': (1, 2), 'layers.0.w': (2, )}
    weights = {
        'cls_token': torch.ones(1, 2),
        'layers.0.w': torch.ones(2) * 1e5,
        'layers.1.w': torch.ones(7),  # not needed, so of any shape
        'head': torch.ones(1)
    }
    assert misfits(weights, needed, known, torch.float32) == []
    assert misfits(weights, needed, known, torch.float16) == [
        'layers.0.w has values that are not finite as torch.float16'
    ]
    # Of another depth, a block's number does not say which block it is.
    del weights['layers.1.w']
    assert misfits(weights, needed, known, torch.float32) == [
        'the file has 1 blocks instead of 2'
    ]
