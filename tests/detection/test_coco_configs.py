"""The configs for COCO at full size, without memory for their tensors."""
import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS

from tests.toys.recipes import SIZES, differences
from tests.toys import needs_mmdet  # noqa: F401
from tests.toys.detection_runs import (ALL, CONFIGS, FASTER_RCNN, MASK_RCNN,
                                       STOCK_FASTER_RCNN, STOCK_RTMDET, load)

SIZE_OF = {name: name[len('vit-')] for name in ALL}
VITDET = [name for name in ALL if name != FASTER_RCNN]


@pytest.fixture(params=ALL)
def built(request):
    cfg = load(request.param)
    with torch.device('meta'):
        return request.param, cfg, MODELS.build(
            dict(cfg.model, _scope_='mmdet'))


def test_all_files_are_checked_here():
    assert sorted(path.name for path in CONFIGS.glob('*')) == sorted(
        (*ALL, STOCK_FASTER_RCNN, STOCK_RTMDET))


def test_backbones_are_the_papers(built):
    name, cfg, model = built
    width, depth, heads, _ = SIZES[SIZE_OF[name]]
    backbone = model.backbone
    assert (backbone.embed_dims, len(backbone.layers)) == (width, depth)
    assert {block.attn.num_heads for block in backbone.layers} == {heads}


@pytest.mark.parametrize('name', VITDET)
def test_windows_and_strides(name):
    """Strides of the maps of 1024 px, as anchors and RoIs expect them."""
    cfg = load(name)
    with torch.device('meta'):
        model = MODELS.build(dict(cfg.model, _scope_='mmdet'))
        maps = model.extract_feat(torch.empty(1, 3, 1024, 1024))
    strides = [4, 8, 16, 32, 64]
    assert [tuple(x.shape) for x in maps] == [
        (1, 256, 1024 // stride, 1024 // stride) for stride in strides
    ]
    assert cfg.model.rpn_head.anchor_generator.strides == strides
    for extractor in (model.roi_head.bbox_roi_extractor,
                      model.roi_head.mask_roi_extractor):
        assert extractor.featmap_strides == strides[:4]
    assert [block.window_size for block in model.backbone.layers
            ] == [14, 14, 0] * 4
    assert cfg.model.data_preprocessor.pad_size_divisor == 1024


def test_strides_of_the_light_example():
    cfg = load(FASTER_RCNN)
    with torch.device('meta'):
        model = MODELS.build(dict(cfg.model, _scope_='mmdet'))
        maps = model.extract_feat(torch.empty(1, 3, 800, 1344))
    strides = [16, 32, 64]
    assert [tuple(x.shape) for x in maps] == [
        (1, 256, -(-800 // stride), 1344 // stride) for stride in strides
    ]
    assert cfg.model.rpn_head.anchor_generator.strides == strides
    # Sides of square anchors.
    assert [[stride * scale for scale in (2, 4, 8)] for stride in strides
            ] == [[32, 64, 128], [64, 128, 256], [128, 256, 512]]
    assert model.rpn_head.prior_generator.num_base_priors == [9, 9, 9]
    assert model.roi_head.bbox_roi_extractor.featmap_strides == [16, 32]
    assert model.roi_head.bbox_roi_extractor.map_roi_levels(
        torch.tensor([[0., 0., 0., 440., 440.], [0., 0., 0., 460., 460.]]),
        2).tolist() == [0, 1]


def test_heads_are_those_of_the_paper():
    """Two convolutions before proposals, four before boxes, norms in both
    heads of regions."""
    with torch.device('meta'):
        model = MODELS.build(dict(load(MASK_RCNN).model, _scope_='mmdet'))
    assert len(model.rpn_head.rpn_conv) == 2
    box, mask = model.roi_head.bbox_head, model.roi_head.mask_head
    assert len(box.shared_convs) == len(mask.convs) == 4
    assert len(box.shared_fcs) == 1
    for conv in (*box.shared_convs, *mask.convs):
        assert type(conv.norm).__name__ == 'LayerNorm2d'
        assert conv.norm.eps == 1e-6
        assert conv.conv.bias is None


def test_learning_rates(built):
    """0.7 to the number of blocks behind, and 1 for neck and heads."""
    name, cfg, model = built
    cfg.optim_wrapper.update(type='OptimWrapper', _scope_='mmdet')
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    groups = {
        group['param_name']: (group['lr'], group['weight_decay'])
        for group in optimizer.param_groups
    }
    assert set(groups) == {
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    norms = {
        f'{prefix}.{kind}'
        for prefix, module in model.named_modules()
        if isinstance(module, torch.nn.LayerNorm)
        for kind in ('weight', 'bias')
    }
    for name, (rate, decay) in groups.items():
        blocks_behind = 0
        if name.startswith('backbone.layers.'):
            blocks_behind = 12 - int(name.split('.')[2])
        elif name.startswith(
            ('backbone.patch_embed', 'backbone.pos', 'backbone.cls')):
            blocks_behind = 13
        assert rate == pytest.approx(1e-4 * 0.7**blocks_behind), name
        no_decay = name in norms or name in ('backbone.pos_embed',
                                             'backbone.cls_token')
        assert decay == (0 if no_decay else 0.1), name


def test_sizes_differ_in_width_and_regularisation():
    medium = load(MASK_RCNN).to_dict()
    tiny, base = (load(f'vit-{size}_mask-rcnn_coco-1024.py').to_dict()
                  for size in 'tb')
    widths = ['model.backbone.arch', 'model.neck.in_channels']
    assert differences(base, medium) == widths
    assert differences(tiny, medium) == [
        'model.backbone.arch', 'model.backbone.drop_path_rate',
        'model.neck.in_channels'
    ]


def test_schedule_is_100_passes_of_64_images():
    cfg = load(MASK_RCNN)
    data = cfg.train_dataloader
    assert cfg.train_cfg.max_epochs * data.dataset.times == 100
    assert cfg.auto_scale_lr.base_batch_size == 64
    assert cfg.param_scheduler[1].milestones == [22, 24]
    pipeline = data.dataset.dataset.pipeline
    assert pipeline[0].type == 'mmpretrain.SeedSample'
    resize, crop = pipeline[3:5]
    assert resize.ratio_range == (0.1, 2.0)
    assert resize.scale == crop.crop_size == (1024, 1024)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.pipeline[1].scale == (1024, 1024)
    assert cfg.val_evaluator.metric == ['bbox', 'segm']


@pytest.mark.parametrize('name', [*ALL, STOCK_FASTER_RCNN, STOCK_RTMDET])
def test_a_run_begins_with_a_check_of_the_file(name):
    cfg = load(name)
    hooks = [hook.type for hook in cfg.custom_hooks]
    assert 'mmpretrain.PretrainedBackboneHook' in hooks
    assert cfg.default_scope == 'mmdet'
    assert 'find_unused_parameters' not in cfg
    assert cfg.model.backbone.init_cfg == dict(
        type='Pretrained',
        checkpoint='PATH_OF_THE_PRETRAINED_CHECKPOINT',
        prefix='backbone.')
