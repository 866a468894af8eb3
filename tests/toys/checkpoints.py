"""Checkpoint files that several tests write."""
import json
import zipfile
from pathlib import Path
from typing import Dict, Tuple

import numpy as np
import torch
from mmengine.runner import Runner

GOLDEN = np.load(
    Path(__file__).parents[1] / 'data' / 'golden_linear_l1.npz')
META = json.loads(str(GOLDEN['meta']))


def golden_weights(side: str) -> Dict[str, torch.Tensor]:
    """Weights under the reference implementation's own names.

    Args:
        side (str): 'student' (with a linear projector) or 'teacher'.

    Returns:
        dict[str, torch.Tensor]: Tensors of their own, to change at will.
    """
    return {
        name[len(side) + 1:]: torch.from_numpy(GOLDEN[name].copy())
        for name in GOLDEN.files if name.startswith(side + '/')
    }


def encoder_only(weights: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
    """What MAE publishes for fine-tuning: no decoder, no projectors."""
    return {
        name: tensor
        for name, tensor in weights.items() if not name.startswith(
            ('decoder_', 'mask_token', 'aligned_feature_projection_heads'))
    }


class RandomImages(torch.utils.data.Dataset):

    def __len__(self):
        return 4

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return dict(inputs=torch.rand(3, 32, 32, generator=generator) * 255)


def train(work_dir: Path, model: dict, *hooks: dict) -> Tuple[Runner, str]:
    """Run an epoch in mmengine's Runner; return it and its checkpoint."""
    model['data_preprocessor'] = dict(
        type='SelfSupDataPreprocessor', mean=[127.] * 3, std=[60.] * 3)
    runner = Runner(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=2,
            num_workers=0,
            dataset=RandomImages(),
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=lambda items: dict(
                inputs=torch.stack([item['inputs'] for item in items]),
                data_samples=[None] * len(items))),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=.01)),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
        custom_hooks=[dict(type='TeacherHook'), *hooks],
        default_scope='mmpretrain',
        experiment_name=str(work_dir),
        randomness=dict(seed=0))
    runner.train()
    return runner, str(work_dir / 'epoch_1.pth')


def with_names_of_numpy_1(path) -> None:
    """Make a file of ``torch.save`` what NumPy 1 would have made it."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, 'w') as archive:
        for name, data in content.items():
            if name.endswith('data.pkl'):
                assert b'numpy._core.multiarray' in data
                data = data.replace(b'numpy._core.', b'numpy.core.')
            archive.writestr(name, data)
