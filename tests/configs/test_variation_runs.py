"""Each variation changes what it should: two iterations beside its base."""
import copy
import inspect
import math

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.nn.functional import normalize

from tests.toys.folders import write_classes

from tests.toys.recipes import VARIATIONS, load
from tests.toys.config_runs import (shrink_classifier,
                                    shrink_classifiers_teacher, shrink_run,
                                    shrink_student)

# Width and depth in the place of the real ones; the student is 24 wide, 4
# deep and sees 8 x 8 patches of 4 px. As ViT-H/14 has a larger grid than the
# students, so has its toy: 9 x 9 patches of 3 px, 8 x 8 in images of 24 px.
TOY_TEACHERS = {
    arch: dict(
        arch=dict(
            embed_dims=width,
            num_layers=depth,
            num_heads=2,
            feedforward_channels=2 * width),
        **images)
    for arch, width, depth, images in (
        ('b', 24, 4, dict(img_size=32, patch_size=4)),
        ('l', 32, 8, dict(img_size=32, patch_size=4)),
        ('h', 40, 12, dict(img_size=27, patch_size=3)))
}
PRETRAINING = [name for name in VARIATIONS if '_dmae' in name]
CLASSIFIERS = [name for name in VARIATIONS if '_dmae' not in name]
# What a toy does not have, or what shows after the second iteration only.
WITHOUT_EFFECT = ('model.backbone.arch', 'model.neck.embed_dim',
                  'model.head.in_channels', 'train_cfg.max_epochs',
                  'param_scheduler.')


class Watch(Hook):
    """What goes through the model in each iteration."""

    def before_train(self, runner) -> None:
        model = self.model = runner.model
        self.losses, self.projected, self.compared, self.images, self.seen = (
            [], [], [], [], [])
        self.initial = {k: v.clone() for k, v in model.state_dict().items()}
        if getattr(model, 'distill_neck', None) is not None:
            model.distill_neck.register_forward_pre_hook(
                lambda module, args: self.projected.extend(args[0]))
        if getattr(model, 'distill_loss', None) is not None:
            model.distill_loss.register_forward_pre_hook(
                lambda module, args: self.compared.append(args))
        if getattr(model, 'teacher', None) is not None:
            self.teacher = model.teacher.fingerprint()
            model.teacher.network.register_forward_pre_hook(
                lambda module, args: self.images.append(args[0]))
            model.teacher.register_forward_hook(
                lambda module, args, output: self.seen.append(
                    output[0].shape[1]))

    def after_train_iter(self, runner, batch_idx, data_batch=None,
                         outputs=None) -> None:
        self.losses.append({k: v.item() for k, v in outputs.items()})

    def untrained(self) -> set:
        """Names of what is as it was."""
        return {
            name
            for name, tensor in self.model.state_dict().items()
            if torch.equal(tensor, self.initial[name])
        }


def base_of(name: str) -> str:
    return VARIATIONS[name].cells['config'].strip('`')


def shrink(cfg) -> None:
    """The model at toy size; what a variation changes stays."""
    if cfg.model.type == 'DMAE':
        teacher = TOY_TEACHERS[cfg.model.teacher.backbone.arch]
        options = {  # what shrink_student would change
            part: cfg.model[part] and cfg.model[part].to_dict()
            for part in ('neck', 'head')
        }
        for part in options:
            cfg.model[part] = cfg.model[part] or dict()
        shrink_student(cfg, patch_size=4)
        for part, given in options.items():
            if given is None:
                cfg.model[part] = None
        if options['neck']:
            cfg.model.neck.decoder_depth = options['neck']['decoder_depth']
        if 'layer_cfgs' in cfg.model.backbone:  # as many heads as the teacher
            cfg.model.backbone.layer_cfgs = [dict()] * 3 + [dict(num_heads=2)]
        cfg.model.teacher.backbone.update(teacher)
        if cfg.model.teacher.type == 'MAETeacher':
            cfg.model.teacher.neck = dict(
                type='MAEPretrainDecoder', decoder_embed_dim=16,
                decoder_num_heads=2)
        if 'target' in cfg.model and cfg.model.target.type == 'PHIStandardize':
            cfg.model.target.num_images = 4  # all there are
        return
    shrink_classifier(cfg)
    cfg.model.backbone.init_cfg = None
    if 'teacher' in cfg.model:
        shrink_classifiers_teacher(cfg)
        cfg.model.teacher.update(checkpoint=None, allow_random=True)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Trains a recipe for two iterations of two images; each one once."""
    root = tmp_path_factory.mktemp('images')
    write_classes(root / 'train', 2, 2, seed=0)
    lines = [
        f'{path.relative_to(root / "train")} {path.parent.name[-1]}'
        for path in sorted((root / 'train').glob('*/*'))
    ]
    for percent in (1, 10):
        (root / f'train_{percent}pct.txt').write_text('\n'.join(lines))
    runs = {}

    def run(name: str) -> Watch:
        if name not in runs:
            cfg = copy.deepcopy(load(name))
            shrink(cfg)
            shrink_run(cfg, root, tmp_path_factory.mktemp('run'))
            for section in ('val', 'test'):
                for part in ('dataloader', 'cfg', 'evaluator'):
                    cfg.pop(f'{section}_{part}', None)
            cfg.train_cfg.max_epochs = 1
            cfg.optim_wrapper.accumulative_counts = 1
            cfg.default_hooks.checkpoint = None
            cfg.experiment_name = name
            # As Runner.from_cfg, but for the text of the config, which takes
            # longer to write than the toy to train.
            runner = Runner(**{
                option: cfg[option]
                for option in inspect.signature(Runner).parameters
                if option in cfg
            })
            runs[name] = Watch()
            runner.register_hook(runs[name])
            runner.train()
        return runs[name]

    return run


def distance(loss: dict, student: torch.Tensor,
             teacher: torch.Tensor) -> torch.Tensor:
    """The losses, written out."""
    if loss.type == 'TokenRelationLoss':
        return divergence(*(
            normalize(side, dim=-1) @ normalize(side, dim=-1).mT / 0.07
            for side in (student, teacher)))
    if loss.type == 'QKVRelationLoss':  # of two heads
        q, k, v = zip(*(
            side.unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
            for side in (student, teacher)))
        return sum(
            divergence(*(x @ y.mT / math.sqrt(x.shape[-1])
                         for x, y in zip(one, other)))
            for one, other in ((q, k), (v, v)))
    if isinstance(loss.criterion, dict):
        return sum(
            weight *
            distance(ConfigDict(loss, criterion=name), student, teacher)
            for name, weight in loss.criterion.items())
    if loss.criterion == 'cosine':
        return 1 - torch.cosine_similarity(student, teacher, dim=-1).mean()
    beta = loss.get('beta', 1)
    if loss.normalize == 'layer':
        teacher = teacher - teacher.mean(-1, keepdim=True)
        teacher = teacher / (
            teacher.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    elif loss.normalize:
        beta = 1 / math.sqrt(student.shape[-1])
        student, teacher = (
            side / side.square().sum(-1, keepdim=True).sqrt()
            for side in (student, teacher))
    x = (student - teacher).abs()
    if loss.criterion == 'smooth_L1':
        return torch.where(x < beta, x * x / (2 * beta), x - beta / 2).mean()
    return (x if loss.criterion == 'L1' else x * x).mean()


def divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean over all rows of KL of their softmax."""
    p, q = teacher.softmax(-1), student.softmax(-1)
    return (p * (p / q).log()).sum(-1).mean()


def loss_names(model: dict, depth: int) -> list:
    """From the config's fractions of 4 and of the teacher's blocks."""
    return [
        f'loss_align_s{round(4 * ours) - 1}_t{round(depth * its) - 1}'
        for ours, its in model.aligned_layers
    ]


def learns_something_else(name: str, base: Watch, watch: Watch) -> bool:
    """Than the base does, unless a toy knows no difference."""
    weights, others = (each.model.backbone.state_dict()
                       for each in (base, watch))
    equal = all(torch.equal(weights[key], others[key]) for key in weights)
    return equal == all(
        option.startswith(WITHOUT_EFFECT)
        for option in VARIATIONS[name].parsed_options())


@pytest.mark.parametrize('name', PRETRAINING)
def test_two_iterations(name, run):
    base, watch = run(base_of(name)), run(name)
    options, model = VARIATIONS[name].parsed_options(), load(name).model
    teacher = TOY_TEACHERS[model.teacher.backbone.arch]['arch']
    first = watch.losses[0]
    names = loss_names(model, teacher['num_layers'])
    assert list(first) == ['loss', 'loss_recon', *names]
    assert len(watch.losses) == 2
    assert first['loss'] == pytest.approx(
        sum(first.values()) - first['loss'], rel=1e-6)

    if not {'model.neck.type', 'model.neck.decoder_depth',
            'model.backbone.mask_ratio'} & options.keys():
        # The same initial student sees the same patches of the same images.
        assert first['loss_recon'] == base.losses[0]['loss_recon']
        for loss, feature in zip(names, watch.projected):
            assert torch.equal(feature, base.projected[0]) == ('_s2_' in loss)
    else:
        assert first['loss_recon'] != base.losses[0]['loss_recon']
    neck = watch.model.neck
    assert len(neck.decoder_blocks) == model.neck.decoder_depth
    light = model.neck.type == 'CrossAttentionDecoder'
    assert getattr(neck, 'num_predicted', None) == (16 if light else None)

    # CLS and the visible ones of 64 patches; the formula on what was compared.
    visible = int(64 * (1 - model.backbone.mask_ratio))
    width = teacher['embed_dims']
    # A toy's teacher of relations is as wide as the student.
    shape = dict(
        FeatureAlignmentLoss=(2, 1 + visible, width),
        TokenRelationLoss=(2, visible, width),
        QKVRelationLoss=(2, 1 + visible, 3 * width))[model.distill_loss.type]
    assert len(watch.compared) == 2 * len(names)
    for loss, (ours, its) in zip(names, watch.compared):
        assert ours.shape == its.shape == shape
        assert first[loss] == pytest.approx(
            model.distill_loss.get('loss_weight', 1) *
            distance(model.distill_loss, ours, its).item(),
            rel=1e-5)
    linear, square = 25 * width, (width + 1) * width
    if model.distill_neck is None:
        assert not hasattr(watch.model, 'distill_neck')
    else:
        assert sum(
            p.numel() for p in watch.model.distill_neck.parameters()) == (
                len(names) * dict(linear=linear, mlp=linear + square,
                                  mlp2=linear + 3 * square,
                                  identity=0)[model.distill_neck.projector])

    side = 24 if model.teacher.backbone.patch_size == 14 else 32
    # All four images were looked at before, to measure the target.
    measured = 2 * (model.get('target', {}).get('type') == 'PHIStandardize')
    assert [images.shape for images in watch.images
            ] == (measured + 2) * [(2, 3, side, side)]
    seen = int(64 * (1 - model.get('teacher_mask_ratio',
                                   model.backbone.mask_ratio)))
    assert watch.seen == (measured + 2) * [1 + seen]

    # All but the position embeddings was trained, the teacher was not.
    assert watch.untrained() == {
        'backbone.pos_embed', 'neck.decoder_pos_embed'
    }
    assert watch.model.teacher.fingerprint() == watch.teacher
    assert learns_something_else(name, base, watch)


# Of 4 blocks of the student; with a decoder, of its 8.
FILES = {
    'vit-t_dmae-qkv': ('loss_align_s3_t3', ),
    'vit-s_dmae-qkv': ('loss_align_s3_t3', ),
    'vit-b_dmae-qkv': ('loss_align_s3_t5', ),
    'vit-s_dmae-amd':
    ('loss_recon', 'loss_align_s1_t1', 'loss_align_s3_t3',
     'loss_generate_s1_t1', 'loss_generate_s3_t3'),
    'vit-b_dmae-amd':
    ('loss_recon', 'loss_align_s1_t3', 'loss_align_s3_t7',
     'loss_generate_s1_t3', 'loss_generate_s3_t7'),
    'vit-s_dmae-g2sd': ('loss_align_s7_t3', ),
}


@pytest.mark.parametrize('name', FILES)
def test_two_iterations_of_another_papers_objective(name, run):
    """test_golden_steps.py computes the losses."""
    watch, model = run(name), load(name).model
    names = FILES[name]
    for losses in watch.losses:
        # A single loss is the loss.
        assert list(losses) == ['loss', *names][:1 + len(names)]
        assert losses['loss'] == pytest.approx(
            sum(losses[loss] for loss in names), rel=1e-6)
    seen = 1 + int(64 * (1 - model.get('teacher_mask_ratio',
                                       model.backbone.mask_ratio)))
    assert watch.seen == 2 * [65 if 'g2sd' in name else seen]
    frozen = {
        parameter for parameter, value in watch.model.named_parameters()
        if not value.requires_grad
    }
    assert watch.untrained() == frozen
    assert ('backbone.ln1.weight' in frozen) == ('qkv' in name)
    assert ('neck.decoder_pred.weight' in frozen) == ('g2sd' in name)
    assert watch.model.teacher.fingerprint() == watch.teacher


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_two_iterations_of_a_classifier(name, run):
    """test_distilled_classifiers.py computes the losses."""
    watch = run(name)
    wanted = {'loss'}
    if 'pct' not in name:
        wanted |= {
            'loss_cls',
            'loss_logits' if 'logits' in name else 'loss_align_s2_t3'
        }
        assert watch.model.teacher.fingerprint() == watch.teacher
    assert [set(losses) for losses in watch.losses] == 2 * [wanted]
    assert watch.untrained() == set()
    assert learns_something_else(name, run(base_of(name)), watch)


@pytest.mark.parametrize('name, factor', [('vit-b_dmae-weight-half', 0.5),
                                          ('vit-b_dmae-weight-double', 2)])
def test_weight_scales_the_loss(name, factor, run):
    base, watch = run('vit-b_dmae'), run(name)
    loss = 'loss_align_s2_t5'
    assert watch.losses[0][loss] == factor * base.losses[0][loss]


def test_cosine_differs_from_l2_in_weight_only(run):
    """By half of the channels, as the page says of the real model."""
    cosine, squares = (
        run(f'vit-b_dmae-{name}').losses[0]['loss_align_s2_t5']
        for name in ('cosine', 'l2'))
    assert cosine == pytest.approx(32 / 2 * squares, rel=1e-5)


def test_smooth_l1_compares_in_both_ways(run):
    """Neither all differences are squared nor none."""
    (student, teacher), *_ = run('vit-b_dmae-smoothl1').compared
    x = (normalize(student, dim=-1) - normalize(teacher, dim=-1)).abs()
    assert 0.2 < (x < 1 / math.sqrt(32)).float().mean() < 0.8


def test_teacher_of_another_patch_size_sees_the_whole_image(run):
    """Resized, not cropped: 24 px of the student's 32."""
    base = run('vit-b_dmae').images[0]
    images = run('vit-b_dmae-teacher-h').images[0]
    torch.testing.assert_close(
        images,
        torch.nn.functional.interpolate(
            base, (24, 24), mode='bicubic', antialias=True))
