"""Each ablation changes what it should: two iterations beside its base."""
import copy
import inspect
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.nn.functional import normalize

from .recipes import load
from .test_ablations import BASE, EPOCHS, MODELS, path_of
from .toy_runs import shrink_run, shrink_student

# Width and depth in the place of the real ones; the student is 24 wide, 4
# deep and sees 4 x 4 patches of 8 px. As ViT-H/14 has a larger grid than the
# students, so has its toy: 5 x 5 patches of 7 px, 4 x 4 in images of 28 px.
TOY_TEACHERS = {
    arch: dict(
        arch=dict(
            embed_dims=width,
            num_layers=depth,
            num_heads=2,
            feedforward_channels=2 * width),
        **images)
    for arch, width, depth, images in (
        ('b', 24, 4, dict(img_size=32, patch_size=8)),
        ('l', 32, 8, dict(img_size=32, patch_size=8)),
        ('h', 40, 12, dict(img_size=35, patch_size=7)))
}
# Name -> its aligned blocks in the toys.
TOY_LOSSES = {
    'b_dmae-depth25': ['loss_align_s0_t1'],
    'b_dmae-depth50': ['loss_align_s1_t3'],
    'b_dmae-depth100': ['loss_align_s3_t7'],
    'b_dmae-pairs2': ['loss_align_s1_t3', 'loss_align_s2_t5'],
    'b_dmae-pairs3': [
        'loss_align_s0_t1', 'loss_align_s1_t3', 'loss_align_s2_t5'
    ],
    'b_dmae-teacher-b': ['loss_align_s2_t2'],
    'b_dmae-teacher-b-identity': ['loss_align_s2_t2'],
    **{f'{size}_dmae-teacher-h': ['loss_align_s2_t8'] for size in 'tsb'},
    **{name: ['loss_align_s2_t2'] for name in EPOCHS if name[0] in 'ts'},
}  # yapf: disable
# Parameters of the projectors: 24 -> 32 and its bias are 800, 32 -> 32 1056.
TOY_PROJECTORS = {
    'b_dmae-pairs2': 2 * 800,
    'b_dmae-pairs3': 3 * 800,
    'b_dmae-mlp': 800 + 1056,
    'b_dmae-mlp2': 800 + 3 * 1056,
    'b_dmae-teacher-b': 25 * 24,
    'b_dmae-teacher-b-identity': 0,
    **{f'{size}_dmae-teacher-h': 25 * 40 for size in 'tsb'},
    **{name: 25 * 24 for name in EPOCHS if name[0] in 'ts'},
}


class Watch(Hook):
    """What goes through the model in each iteration."""

    def before_train(self, runner) -> None:
        model = self.model = runner.model
        self.losses, self.projected, self.compared, self.images = (
            [], [], [], [])
        self.initial = {k: v.clone() for k, v in model.state_dict().items()}
        self.teacher = model.teacher.fingerprint()
        model.distill_neck.register_forward_pre_hook(
            lambda module, args: self.projected.extend(args[0]))
        model.distill_loss.register_forward_pre_hook(
            lambda module, args: self.compared.append(args))
        model.teacher.network.register_forward_pre_hook(
            lambda module, args: self.images.append(args[0]))

    def after_train_iter(self, runner, batch_idx, data_batch=None,
                         outputs=None) -> None:
        self.losses.append({k: v.item() for k, v in outputs.items()})


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Trains a config for two iterations of two images; each config once."""
    images = tmp_path_factory.mktemp('images')
    pixels = np.random.RandomState(0)
    for index in range(4):
        cv2.imwrite(
            str(images / f'{index}.png'),
            pixels.randint(0, 256, (40, 48, 3)).astype(np.uint8))
    runs = {}

    def run(path: str) -> Watch:
        if path not in runs:
            cfg = copy.deepcopy(load(path))
            decoder_depth = cfg.model.neck.decoder_depth
            arch = cfg.model.teacher.backbone.arch
            shrink_student(cfg)
            cfg.model.neck.decoder_depth = decoder_depth
            cfg.model.teacher.backbone.update(TOY_TEACHERS[arch])
            shrink_run(cfg, images, tmp_path_factory.mktemp('run'))
            cfg.train_cfg.max_epochs = 1
            cfg.optim_wrapper.accumulative_counts = 1
            cfg.default_hooks.checkpoint = None
            cfg.experiment_name = Path(path).stem
            # As Runner.from_cfg, but for the text of the config, which takes
            # longer to write than the toy to train.
            runner = Runner(**{
                option: cfg[option]
                for option in inspect.signature(Runner).parameters
                if option in cfg
            })
            runs[path] = Watch()
            runner.register_hook(runs[path])
            runner.train()
        return runs[path]

    return run


def distance(criterion: str, normalized: bool, student: torch.Tensor,
             teacher: torch.Tensor) -> torch.Tensor:
    """The criteria, written out."""
    if criterion == 'cosine':
        return 1 - torch.cosine_similarity(student, teacher, dim=-1).mean()
    if normalized:
        student, teacher = (
            side / side.square().sum(-1, keepdim=True).sqrt()
            for side in (student, teacher))
    x = (student - teacher).abs()
    if criterion == 'smooth_L1':
        beta = 1 / math.sqrt(student.shape[-1])
        return torch.where(x < beta, x * x / (2 * beta), x - beta / 2).mean()
    return (x if criterion == 'L1' else x * x).mean()


@pytest.mark.parametrize('name', MODELS)
def test_two_iterations(name, run):
    base, watch = run('dmae/vit-b_dmae_in1k.py'), run(path_of(name))
    first = watch.losses[0]
    names = TOY_LOSSES.get(name, ['loss_align_s2_t5'])
    assert list(first) == ['loss', 'loss_recon', *names]
    assert len(watch.losses) == 2
    assert first['loss'] == pytest.approx(
        sum(first.values()) - first['loss'], rel=1e-6)

    if 'decoder' in name:  # draws other random numbers
        light = name == 'b_dmae-light-decoder'
        neck = watch.model.neck
        assert len(neck.decoder_blocks) == (8 if light else 2)
        assert getattr(neck, 'num_predicted', None) == (4 if light else None)
        assert first['loss_recon'] != base.losses[0]['loss_recon']
    else:
        # The same initial student sees the same patches of the same images.
        assert first['loss_recon'] == base.losses[0]['loss_recon']
        for loss, feature in zip(names, watch.projected):
            assert torch.equal(feature, base.projected[0]) == ('_s2_' in loss)

    # CLS and 4 of 16 patches; the formula on what was compared.
    criterion, normalized, weight, _ = MODELS[name].get('loss', BASE['loss'])
    width = TOY_TEACHERS[load(
        path_of(name)).model.teacher.backbone.arch]['arch']['embed_dims']
    assert len(watch.compared) == 2 * len(names)
    for loss, (student, teacher) in zip(names, watch.compared):
        assert student.shape == teacher.shape == (2, 5, width)
        assert first[loss] == pytest.approx(
            weight * distance(criterion, normalized, student, teacher).item(),
            rel=1e-5)
    assert sum(p.numel()
               for p in watch.model.distill_neck.parameters()) == (
                   TOY_PROJECTORS.get(name, 800))

    size = 28 if 'teacher-h' in name else 32
    assert [images.shape for images in watch.images] == 2 * [(2, 3, size,
                                                              size)]

    # All but the position embeddings was trained, the teacher was not.
    final = watch.model.state_dict()
    still = {k for k in final if torch.equal(final[k], watch.initial[k])}
    assert still == {'backbone.pos_embed', 'neck.decoder_pos_embed'}
    assert watch.model.teacher.fingerprint() == watch.teacher


@pytest.mark.parametrize('name', MODELS)
def test_the_student_learns_something_else(name, run):
    """Than that of the base; a longer schedule begins as the base's does."""
    base = run(f'dmae/vit-{name[0]}_dmae_in1k.py').model.state_dict()
    final = run(path_of(name)).model.state_dict()
    equal = all(
        torch.equal(final[key], base[key]) for key in final
        if key.startswith('backbone.'))
    assert equal == (name in EPOCHS)


@pytest.mark.parametrize('name, factor', [('b_dmae-weight-half', 0.5),
                                          ('b_dmae-weight-double', 2)])
def test_weight_scales_the_loss(name, factor, run):
    base, watch = run('dmae/vit-b_dmae_in1k.py'), run(path_of(name))
    loss = 'loss_align_s2_t5'
    assert watch.losses[0][loss] == factor * base.losses[0][loss]


def test_cosine_differs_from_l2_in_weight_only(run):
    """By half of the channels, as its config says of the real model."""
    cosine, squares = (
        run(path_of(name)).losses[0]['loss_align_s2_t5']
        for name in ('b_dmae-cosine', 'b_dmae-l2'))
    assert cosine == pytest.approx(32 / 2 * squares, rel=1e-5)


def test_smooth_l1_compares_in_both_ways(run):
    """Neither all differences are squared nor none."""
    (student, teacher), *_ = run(path_of('b_dmae-smoothl1')).compared
    x = (normalize(student, dim=-1) - normalize(teacher, dim=-1)).abs()
    assert 0.2 < (x < 1 / math.sqrt(32)).float().mean() < 0.8


def test_teacher_of_another_patch_size_sees_the_whole_image(run):
    """Resized, not cropped: 28 px of the student's 32."""
    base = run('dmae/vit-b_dmae_in1k.py').images[0]
    images = run(path_of('b_dmae-teacher-h')).images[0]
    torch.testing.assert_close(
        images,
        torch.nn.functional.interpolate(
            base, (28, 28), mode='bicubic', antialias=True))
