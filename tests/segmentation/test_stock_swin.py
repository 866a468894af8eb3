"""A distilled Swin in mmseg's own UPerNet config."""
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from tests.toys import needs_mmseg  # noqa: F401
from dmae_mm.weights.check_transfer import check_transfer
from tests.toys.hosted_students import stock, write_student
from tests.toys.models import ROOT
from tests.toys.recipes import differences
from tests.toys.segmentation_runs import build_runner, shrink_run

OURS = str(ROOT / 'configs' / 'segmentation' /
           'swin-t_upernet_ade20k-512x512.py')
STOCK = stock(
    'mmseg', 'swin',
    'swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py')
SWIN_T = dict(
    type='SwinTransformer', arch='tiny', out_indices=[0, 1, 2, 3])
ARCH = dict(embed_dims=12, depths=[1, 2, 1, 1], num_heads=[1, 2, 3, 4])
TOY = dict(SWIN_T, arch=ARCH)
IN_TOY = {f'model.backbone.{name}': value for name, value in ARCH.items()}


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'epoch_100.pth'


def in_host(config, path, options):
    """The backbone of a config, loaded as by a runner, in eval mode."""
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(options)
    cfg.model.backbone.init_cfg.checkpoint = str(path)
    with DefaultScope.overwrite_default_scope('mmseg'):
        backbone = MODELS.build(cfg.model.backbone)
        backbone.init_weights()
    backbone.train(False)
    return backbone


@pytest.mark.parametrize('config', [STOCK, OURS], ids=['stock', 'ours'])
@pytest.mark.parametrize('backbone, options, number', [
    (TOY, IN_TOY, 2 + 2 + 5 * 14 + 3 * 3 + 4 * 2),
    pytest.param(SWIN_T, {}, 189, marks=pytest.mark.slow),
], ids=['toy', 'Swin-T'])
def test_all_arrives_and_computes_the_same(path, config, backbone, options,
                                           number):
    """Where maps are larger than a window: on smaller ones, mmpretrain's
    does not shift its windows unless pad_small_map=True."""
    student = write_student(path, backbone)
    lines, reason = check_transfer(config, str(path), options)
    assert reason == ''
    assert lines[-1] == f'All {number} backbone tensors arrived (0 resized).'
    host = in_host(config, path, options)
    assert type(host).__module__ == 'mmseg.models.backbones.swin'
    images = torch.randn(
        1, 3, 256, 288, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        pairs = list(zip(student(images), host(images), strict=True))
    assert len(pairs) == 4
    for wanted, found in pairs:
        assert wanted.isfinite().all() and wanted.std() > 0
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_names_without_prefix(path):
    """mmseg takes them, too; with our hook's check, and without."""
    write_student(path, TOY)
    file = torch.load(path, weights_only=True)
    file['state_dict'] = {
        name.removeprefix('backbone.'): tensor
        for name, tensor in file['state_dict'].items()
    }
    torch.save(file, path)
    for config in (STOCK, OURS):
        lines, reason = check_transfer(config, str(path), IN_TOY)
        assert reason == '' and lines[-1].startswith('All ')


@pytest.mark.parametrize('changes, message', [
    (dict(arch=dict(ARCH, depths=[1, 2, 2, 1])),
     'stages.2.blocks.1.norm1.weight has no place in it'),
    (dict(arch=dict(ARCH, embed_dims=24)),
     'has shape (24, 3, 4, 4) instead of (12, 3, 4, 4)'),
    (dict(window_size=4), 'it is for windows of 4 x 4 instead of 7 x 7. '
     'Give model.backbone.window_size=4'),
])
def test_another_size_is_refused(path, changes, message):
    write_student(path, dict(TOY, **changes))
    _, reason = check_transfer(STOCK, str(path), IN_TOY)
    assert message in reason


def test_mobilenets_of_equal_names(path):
    """mmseg's pads as TensorFlow does; mmpretrain's in its place is right."""
    config = stock('mmseg', 'mobilenet_v3',
                   'mobilenet-v3-d8_lraspp_4xb4-320k_cityscapes-512x1024.py')
    write_student(path, dict(type='MobileNetV3', arch='large'))
    lines, reason = check_transfer(config, str(path))
    assert reason.endswith("prefix='backbone.') and model.pretrained=None.")
    options = {
        'model.pretrained': None,
        'model.backbone.init_cfg': dict(
            type='Pretrained', checkpoint='x', prefix='backbone.')
    }
    lines, reason = check_transfer(config, str(path), options)
    assert ("says type='mmpretrain.MobileNetV3', but mmseg's pads its strided "
            'convolutions otherwise') in reason
    options['model.backbone.type'] = 'mmpretrain.MobileNetV3'
    assert check_transfer(config, str(path), options)[1] == ''


def test_a_last_layer_that_mmseg_does_not_build(path):
    config = stock('mmseg', 'mobilenet_v2',
                   'mobilenet-v2-d8_pspnet_4xb4-160k_ade20k-512x512.py')
    write_student(path, dict(type='MobileNetV2'))
    lines, reason = check_transfer(config, str(path), {
        'model.pretrained': None,
        'model.backbone.init_cfg': dict(
            type='Pretrained', checkpoint='x', prefix='backbone.')
    })
    assert reason == '' and 'unused in the checkpoint: 6' in lines


def test_the_recipe_is_mmsegs():
    ours, stock_one = (
        Config.fromfile(each).to_dict() for each in (OURS, STOCK))
    assert [
        name for name in differences(ours, stock_one)
        if not name.endswith('_scope_')
    ] == [
        'auto_scale_lr', 'custom_hooks', 'custom_imports',
        'default_hooks.checkpoint.type', 'model.backbone.init_cfg.checkpoint',
        'model.backbone.init_cfg.prefix', 'randomness'
    ]


@pytest.mark.slow
def test_it_trains(path, ade20k, tmp_path):
    """Three iterations; then all of the backbone has moved."""
    student = write_student(path, TOY)
    cfg = Config.fromfile(OURS)
    shrink_run(cfg, tmp_path / 'run', iterations=3)
    widths = [12, 24, 48, 96]
    cfg.merge_from_dict({
        **IN_TOY,
        'model.backbone.init_cfg.checkpoint': str(path),
        'model.decode_head.in_channels': widths,
        'model.decode_head.channels': 16,
        'model.auxiliary_head.in_channels': 48,
        'model.auxiliary_head.channels': 8,
    })
    del cfg.model.backbone['img_size']  # mmseg's has none
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(ade20k)
    runner = build_runner(cfg)
    runner.train()
    start = runner.record.start
    assert start.keys() == student.state_dict().keys()
    for name, tensor in student.state_dict().items():
        assert torch.equal(start[name], tensor), name
    assert len(runner.record.losses) == 3
    assert [
        name for name, tensor in runner.model.backbone.named_parameters()
        if torch.equal(tensor, start[name])
    ] == []
