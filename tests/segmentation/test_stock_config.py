"""mmseg's own MAE config, as installed, starts from an exported ViT-B."""
import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

from tests.toys import needs_mmseg  # noqa: F401
from mmseg.registry import MODELS as MMSEG_MODELS
from tests.toys.models import ROOT
from tests.toys.segmentation_runs import MAE, build_runner, shrink_run

# Half of the usual size, for the sake of time: 49 patches.
IMG_SIZE = 112


@pytest.fixture(scope='module')
def folder(tmp_path_factory, ade20k):
    """Where the config's own paths are right."""
    folder = tmp_path_factory.mktemp('stock')
    data_root = folder / 'data' / 'ade' / 'ADEChallengeData2016'
    data_root.parent.mkdir(parents=True)
    data_root.symlink_to(ade20k)
    with torch.device('meta'):
        student = MODELS.build(
            dict(type='MAEViT', arch='b', img_size=IMG_SIZE))
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, tensor in student.state_dict().items():
        # No zeros and ones, which initialisation might give as well.
        centre = name.endswith('weight') and tensor.ndim == 1
        state[f'backbone.{name}'] = torch.rand(
            tensor.shape, generator=generator).sub_(0.5).mul_(0.1).add_(centre)
    torch.save(dict(state_dict=state), folder / 'vit-b.pth')
    export = runpy.run_path(
        str(ROOT / 'tools' / 'model_converters' / 'export.py'))['main']
    export([
        str(ROOT / 'configs' / 'dmae' / 'vit-b_dmae_in1k.py'),
        str(folder / 'vit-b.pth'),
        str(folder / 'pretrain' / 'mae_pretrain_vit_base_mmcls.pth'), '--to',
        'mmseg', '--cfg-options', f'model.backbone.img_size={IMG_SIZE}'
    ])
    return folder


def check_arrived(folder: Path, backbone: dict) -> None:
    """Compare with the file before the export, name by name."""
    state = torch.load(
        folder / 'vit-b.pth', mmap=True, weights_only=True)['state_dict']
    found = dict(backbone)
    side = round((found['pos_embed'].shape[1] - 1)**0.5)
    for name, tensor in state.items():
        name = name[len('backbone.'):]
        if name.startswith('ln1.'):  # the last norm, which mmseg's has not
            continue
        if name == 'pos_embed':
            grid = tensor[:, 1:].unflatten(1, (7, 7)).permute(0, 3, 1, 2)
            grid = F.interpolate(
                grid, size=(side, side), mode='bicubic', align_corners=False)
            tensor = torch.cat(
                [tensor[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
        assert torch.equal(found.pop(name), tensor), name
    for name, tensor in found.items():
        kind = name.split('.')[-1]
        if kind in ('gamma_1', 'gamma_2'):
            assert tensor.unique().tolist() == [1], name
        elif kind == 'relative_position_bias_table':
            assert not tensor.any(), name
        else:
            assert kind == 'relative_position_index', name


def test_every_weight_arrives(folder, monkeypatch):
    """In the model of the config as it is, at 512 px."""
    monkeypatch.chdir(folder)
    cfg = Config.fromfile(MAE)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MMSEG_MODELS.build(cfg.model)
    model.backbone.init_weights()
    check_arrived(folder, model.backbone.state_dict())


@pytest.mark.slow
def test_it_trains(folder, tmp_path, monkeypatch):
    """At 64 px and with narrow heads; the backbone has its full size."""
    monkeypatch.chdir(folder)
    cfg = Config.fromfile(MAE)
    shrink_run(cfg, tmp_path, iterations=3)
    cfg.merge_from_dict({
        'model.decode_head.channels': 32,
        'model.auxiliary_head.channels': 32,
        'train_dataloader.batch_size': 4,
        'optim_wrapper.optimizer.lr': 1e-3,
        'default_hooks.checkpoint.save_last': False,
        'default_hooks.checkpoint.interval': 100,
    })
    runner = build_runner(cfg)
    runner.train()
    check_arrived(folder, runner.record.start)
    losses = runner.record.losses
    assert len(losses) == 3 and losses[2] < losses[0], losses
    unchanged = [
        name for name, tensor in runner.model.backbone.named_parameters()
        if torch.equal(tensor, runner.record.start[name])
    ]
    assert unchanged == []
