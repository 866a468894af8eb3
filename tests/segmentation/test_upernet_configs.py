"""Our configs of UPerNet: what is in them, and a toy of one at work."""
import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

from tests.toys import needs_mmseg  # noqa: F401
from mmseg.apis import inference_model, init_model, show_result_pyplot
from mmseg.registry import MODELS as MMSEG_MODELS
from tests.toys.models import ROOT, STUDENT, TOY_MODEL
from tests.toys.ade20k import IGNORED
from tests.toys.segmentation_runs import MAE, build_runner, shrink_run

WIDTHS = dict(t=192, s=384, b=768)
CHECKPOINT = 'PATH_OF_THE_PRETRAINED_CHECKPOINT'


def load(size: str) -> Config:
    return Config.fromfile(ROOT / 'configs' / 'segmentation' /
                           f'vit-{size}_upernet_ade20k-512x512.py')


def build(cfg: Config) -> torch.nn.Module:
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MMSEG_MODELS.build(cfg.model)


@pytest.mark.parametrize('size', WIDTHS)
def test_architecture(size):
    """A backbone that the pre-trained one fits into, and heads that fit."""
    pretraining = Config.fromfile(ROOT / 'configs' / 'dmae' /
                                  f'vit-{size}_dmae_in1k.py')
    cfg = load(size)
    with torch.device('meta'):
        student = MODELS.build(pretraining.model.backbone).state_dict()
        model = build(cfg).eval()
        images = torch.empty(1, 3, 512, 512)
    shapes = {
        name: tuple(tensor.shape)
        for name, tensor in model.backbone.state_dict().items()
    }
    assert shapes.pop('pos_embed') == (1, 1 + 32 * 32, WIDTHS[size])
    assert shapes == {
        name: tuple(tensor.shape)
        for name, tensor in student.items()
        if name not in ('pos_embed', 'ln1.weight', 'ln1.bias')
    }
    assert model.backbone.out_indices == [2, 5, 8, 11]
    features = model.extract_feat(images)
    assert [tuple(feature.shape) for feature in features
            ] == [(1, WIDTHS[size], side, side) for side in (128, 64, 32, 16)]
    assert model.decode_head(features).shape == (1, 150, 128, 128)
    assert model.auxiliary_head(features).shape == (1, 150, 32, 32)
    for name in ('mean', 'std'):
        assert (cfg.model.data_preprocessor[name] ==
                pretraining.data_preprocessor[name])
    assert cfg.model.data_preprocessor.bgr_to_rgb
    assert pretraining.data_preprocessor.to_rgb


@pytest.mark.parametrize('size', WIDTHS)
def test_recipe(size):
    """That of mmseg's MAE config, where the comment in ours says so."""
    cfg = load(size)
    stock = Config.fromfile(MAE)
    for name in ('param_scheduler', 'train_cfg', 'val_evaluator'):
        assert cfg[name] == stock[name], name
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        assert cfg[name] == stock[name], name
    assert cfg.optim_wrapper.optimizer == stock.optim_wrapper.optimizer
    assert cfg.model.test_cfg == stock.model.test_cfg
    assert (cfg.optim_wrapper.paramwise_cfg.layer_decay_rate ==
            stock.optim_wrapper.paramwise_cfg.layer_decay_rate)
    assert (cfg.model.backbone.drop_path_rate ==
            stock.model.backbone.drop_path_rate)
    assert cfg.auto_scale_lr.base_batch_size == (
        8 * cfg.train_dataloader.batch_size)


@pytest.fixture(scope='module')
def student(tmp_path_factory):
    """A checkpoint of DMAE at toy size."""
    torch.manual_seed(0)
    model = MODELS.build(dict(TOY_MODEL))
    model.init_weights()
    path = tmp_path_factory.mktemp('student') / 'epoch_1.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return path


def toy(work_dir, ade20k, student, iterations) -> Config:
    cfg = load('s')
    shrink_run(cfg, work_dir, iterations)
    cfg.merge_from_dict({
        'model.backbone.patch_size': 8,
        'model.backbone.out_indices': [0, 1, 2, 3],
        'model.backbone.init_cfg.checkpoint': str(student),
        'model.neck.embed_dim': 24,
        'model.decode_head.in_channels': [24] * 4,
        'model.decode_head.channels': 16,
        'model.auxiliary_head.in_channels': 24,
        'model.auxiliary_head.channels': 8,
        'optim_wrapper.optimizer.lr': 0.03,
        'train_dataloader.batch_size': 4,
    })
    cfg.model.backbone.arch = STUDENT
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(ade20k)
    return cfg


def without_chance(cfg: Config) -> None:
    """The same batch and the same network at each iteration."""
    cfg.model.backbone.drop_path_rate = 0.
    cfg.model.decode_head.dropout_ratio = 0.
    cfg.model.auxiliary_head.dropout_ratio = 0.
    pipeline = cfg.train_dataloader.dataset.pipeline
    cfg.train_dataloader.dataset.pipeline = [
        step for step in pipeline
        if step.type not in ('RandomFlip', 'PhotoMetricDistortion')
    ]
    cfg.train_dataloader.dataset.pipeline[3].crop_size = (64, 96)
    cfg.model.data_preprocessor.size = (64, 96)


def test_learning_rates():
    cfg = load('s')
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'  # needs a GPU
    cfg.optim_wrapper.type = 'OptimWrapper'
    del cfg.optim_wrapper.loss_scale
    with torch.device('meta'):
        model = build(cfg)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    groups = {
        group['param_name']: (group['lr'], group['weight_decay'])
        for group in wrapper.optimizer.param_groups
    }
    lowest = pytest.approx(3.697e-7, rel=1e-3)  # 1e-4 * 0.65^13
    assert groups['backbone.patch_embed.projection.weight'] == (lowest, 0.05)
    assert groups['backbone.cls_token'] == (lowest, 0)
    assert groups['backbone.pos_embed'] == (lowest, 0)
    assert groups['backbone.layers.0.attn.qkv.weight'] == (pytest.approx(
        1e-4 * 0.65**12), 0.05)
    assert groups['backbone.layers.11.attn.qkv.weight'] == (
        pytest.approx(6.5e-5), 0.05)
    assert groups['backbone.layers.11.attn.qkv.bias'] == (
        pytest.approx(6.5e-5), 0)
    assert groups['neck.upsample_2x.0.weight'] == (1e-4, 0.05)
    assert groups['decode_head.conv_seg.weight'] == (1e-4, 0.05)
    assert groups['auxiliary_head.conv_seg.bias'] == (1e-4, 0)


def test_every_parameter_has_a_gradient(tmp_path, ade20k, student):
    """So that distributed training needs no search for unused ones."""
    runner = build_runner(toy(tmp_path, ade20k, student, 1))
    model = runner.model.train()
    batch = next(iter(runner.build_dataloader(runner.cfg.train_dataloader)))
    batch = model.data_preprocessor(batch, training=True)
    losses = model.loss(batch['inputs'], batch['data_samples'])
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    assert [
        name for name, parameter in model.named_parameters()
        if parameter.grad is None
    ] == []


@pytest.fixture(scope='module')
def trained(tmp_path_factory, ade20k, student):
    """The runner of 30 iterations, and mmseg's metrics before and after."""
    cfg = toy(tmp_path_factory.mktemp('trained'), ade20k, student, 30)
    untrained = build_runner(cfg).val_loop.run()
    runner = build_runner(cfg)
    runner.train()
    return runner, untrained, runner.val_loop.run()


def test_it_starts_from_the_student(trained, student):
    state = torch.load(student, weights_only=True)['state_dict']
    start = trained[0].record.start
    assert len(start) == 3 + 1 + 4 * 12
    assert start.pop('pos_embed').shape == (1, 1 + 8 * 8, 24)  # from 4 x 4
    for name, tensor in start.items():
        assert torch.equal(tensor, state[f'backbone.{name}']), name


def test_it_learns(trained):
    """Losses fall, and so do mistakes on other photographs."""
    runner, untrained, metrics = trained
    losses = np.array(runner.record.losses).reshape(3, 10).mean(axis=1)
    assert losses[0] > 2 * losses[1] and losses[1] > 1.5 * losses[2], losses
    assert untrained['mIoU'] < 10 and metrics['mIoU'] > 30


def test_inference(trained, tmp_path, ade20k):
    """From the checkpoint, with mmseg's functions: metric and picture."""
    runner, _, metrics = trained
    model = init_model(
        runner.cfg, runner.cfg.work_dir + '/iter_30.pth', device='cpu')
    hits = np.zeros((2, 150))  # intersections and unions
    for path in sorted((ade20k / 'images' / 'validation').iterdir()):
        result = inference_model(model, str(path))
        found = result.pred_sem_seg.data[0].numpy()
        labels = cv2.imread(
            str(ade20k / 'annotations' / 'validation' / f'{path.stem}.png'),
            cv2.IMREAD_UNCHANGED)
        for label in range(150):
            # Files begin to count classes at 1, and 0 is not looked at.
            wanted = labels == label + 1
            chosen = (found == label) & (labels != IGNORED)
            hits[:, label] += (wanted & chosen).sum(), (wanted | chosen).sum()
    intersections, unions = hits[:, hits[1] > 0]
    assert metrics['mIoU'] == pytest.approx(
        100 * (intersections / unions).mean(), abs=0.01)

    drawn = tmp_path / 'drawn.png'
    show_result_pyplot(
        model, str(path), result, show=False, with_labels=False, opacity=1.0,
        draw_gt=False, out_file=str(drawn))
    # Nothing but the palette's colours: the class of each pixel.
    palette = np.array(model.dataset_meta['palette'], np.uint8)
    assert np.array_equal(
        cv2.imread(str(drawn))[..., ::-1], palette[found])


@pytest.mark.slow
def test_resuming(tmp_path, ade20k, student):
    """4 iterations = 2, stop, resume, 2: each loss, bit for bit."""
    cfg = toy(tmp_path / 'whole', ade20k, student, 4)
    without_chance(cfg)
    cfg.default_hooks.checkpoint.interval = 2
    whole = build_runner(cfg)
    whole.train()
    cfg.load_from = str(tmp_path / 'whole' / 'iter_2.pth')
    cfg.resume = True
    cfg.work_dir = str(tmp_path / 'resumed')
    resumed = build_runner(cfg)
    resumed.train()
    assert len(whole.record.losses) == 4
    assert resumed.record.losses == whole.record.losses[2:]


def test_a_missing_checkpoint(tmp_path, ade20k):
    runner = build_runner(toy(tmp_path, ade20k, CHECKPOINT, 1))
    with pytest.raises(
            FileNotFoundError,
            match=f'model.backbone.init_cfg.checkpoint: .*{CHECKPOINT}'):
        runner.train()
    assert runner.record.losses == []
