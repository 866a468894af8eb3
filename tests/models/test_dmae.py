"""The algorithm: losses, gradients, the teacher's place, bad input."""
import copy
import functools
import pickle

import pytest
import torch
from mmengine.config import Config
from mmpretrain import get_model
from mmpretrain.registry import MODELS

from dmae_mm.models.data_preprocessor import ChannelsDataPreprocessor
from tests.toys.models import TEACHER, classifier


def build(cfg):
    model = MODELS.build(copy.deepcopy(cfg))
    model.init_weights()
    return model


def test_loss_names_and_sum(toy_model, images):
    toy_model['aligned_layers'] = [(-1, 1.0), (0.25, 0)]
    model = build(toy_model)
    losses = model.loss(images, None)
    assert list(losses) == [
        'loss_recon', 'loss_align_s3_t5', 'loss_align_s0_t0'
    ]
    total, log_vars = model.parse_losses(losses)
    torch.testing.assert_close(total, sum(losses.values()))
    assert total > losses['loss_recon']


def test_without_teacher_it_is_mae(toy_model, images):
    """Same numbers as mmpretrain's own MAE, loss and gradients."""
    toy_model.update(teacher=None, aligned_layers=[])
    model = build(toy_model)
    stock = MODELS.build(
        dict(
            type='MAE',
            **{part: toy_model[part]
               for part in ('backbone', 'neck', 'head')}))
    stock.load_state_dict(model.state_dict(), strict=True)
    torch.manual_seed(5)
    losses = model.loss(images, None)
    torch.manual_seed(5)
    wanted = stock.loss(images, None)
    assert list(losses) == ['loss_recon']
    assert torch.equal(losses['loss_recon'], wanted['loss'])
    losses['loss_recon'].backward()
    wanted['loss'].backward()
    for ours, theirs in zip(model.parameters(), stock.parameters()):
        assert (ours.grad is None) == (theirs.grad is None)
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad)


def test_the_control_starts_from_the_same_student(toy_model):
    """Per-module init_cfg, as in the configs: equal seeds, equal students."""
    init_cfg = [dict(type='Xavier', layer='Linear', distribution='uniform')]
    toy_model['backbone']['init_cfg'] = init_cfg
    toy_model['neck']['init_cfg'] = init_cfg
    torch.manual_seed(4)
    dmae = build(toy_model).state_dict()
    torch.manual_seed(4)
    control = build(dict(toy_model, teacher=None,
                         aligned_layers=[])).state_dict()
    assert all(torch.equal(dmae[name], control[name]) for name in control)
    assert {name.split('.')[0]
            for name in dmae.keys() - control.keys()} == {'distill_neck'}


def test_teacher_sees_exactly_the_visible_patches(toy_model, images):
    """Its features must not depend on what the student's mask hides."""
    model = build(toy_model)
    seen = {}
    model.teacher.register_forward_hook(
        lambda module, args, output: seen.update(ids=args[1]))
    masks = {}
    model.backbone.register_forward_hook(
        lambda module, args, output: masks.update(mask=output[1]))
    model.loss(images, None)
    assert seen['ids'].shape == (3, 4)
    visible = masks['mask'] == 0
    for row, ids in zip(visible, seen['ids']):
        assert sorted(ids.tolist()) == row.nonzero().flatten().tolist()


@pytest.mark.parametrize('has_cls', [True, False])
def test_cls_is_aligned_only_if_both_sides_have_one(toy_model, images,
                                                    has_cls):
    toy_model['teacher']['backbone'] = dict(
        type='VisionTransformer', arch=TEACHER, img_size=32, patch_size=8,
        with_cls_token=has_cls)
    model = build(toy_model)
    shapes = []
    model.distill_loss.register_forward_hook(
        lambda module, args, output: shapes.append(
            [tuple(arg.shape) for arg in args]))
    loss = model.loss(images, None)['loss_align_s2_t3']
    assert shapes == [[(3, 4 + has_cls, 32)] * 2]
    loss.backward()
    assert model.backbone.layers[2].ln1.weight.grad.abs().sum() > 0


def test_registers_are_never_aligned(toy_model, images):
    """A teacher with CLS and two registers in front of its patches."""
    model = build(toy_model)
    student = [torch.randn(3, 5, 24)]
    plain = [torch.randn(3, 5, 32)]
    with_registers = [
        torch.cat([plain[0][:, :1],
                   torch.randn(3, 2, 32), plain[0][:, 1:]], 1)
    ]
    model.eval()
    wanted = model.distillations.by_name[''].align(student, plain)
    model.teacher.num_prefix_tokens = 3
    losses = model.distillations.by_name[''].align(student, with_registers)
    torch.testing.assert_close(losses, wanted)


def test_distillation_reaches_the_student_and_nothing_else(toy_model, images):
    toy_model['distill_loss'] = dict(
        type='FeatureAlignmentLoss', loss_weight=3.0)
    model = build(toy_model)
    before = model.teacher.fingerprint()
    model.loss(images, None)['loss_align_s2_t3'].backward()
    touched = {
        name
        for name, p in model.named_parameters()
        if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert 'backbone.layers.2.ln1.weight' in touched
    assert 'distill_neck.projectors.0.weight' in touched
    assert not any(
        name.startswith(('neck.', 'backbone.layers.3.', 'backbone.ln1.'))
        for name in touched)
    assert model.teacher.fingerprint() == before
    assert all(p.grad is None for p in model.teacher.parameters())


def test_every_trainable_parameter_gets_a_gradient(toy_model, images):
    """What DDP asks for without ``find_unused_parameters``."""
    for mask_ratio in (0.75, 0.0):
        toy_model['backbone']['mask_ratio'] = mask_ratio
        model = build(toy_model)
        sum(model.loss(images, None).values()).backward()
        for name, parameter in model.named_parameters():
            # The mask token is not used when nothing is masked, but is part
            # of the graph; pos_embeds are fixed.
            assert (parameter.grad is not None) == parameter.requires_grad, (
                name)


def test_mask_ratio_zero_has_no_reconstruction_and_stays_finite(
        toy_model, images):
    toy_model['backbone']['mask_ratio'] = 0.0
    losses = build(toy_model).loss(images, None)
    assert losses['loss_recon'].item() == 0
    assert losses['loss_align_s2_t3'].item() > 0


class TestTeacherIsNotPartOfTheModel:

    def test_parameters_and_state_dict(self, toy_model):
        model = build(toy_model)
        assert not any('teacher' in name for name in model.state_dict())
        own = {id(p) for p in model.parameters()}
        assert own.isdisjoint(id(p) for p in model.teacher.parameters())
        assert not any(module is model.teacher for module in model.modules())

    def test_any_other_key_still_raises(self, toy_model):
        model = build(toy_model)
        state = model.state_dict()
        with pytest.raises(RuntimeError, match='teacher.network.cls_token'):
            model.load_state_dict(
                dict(state, **{'teacher.network.cls_token': torch.zeros(1)}))
        state.pop('neck.mask_token')
        with pytest.raises(RuntimeError, match='neck.mask_token'):
            model.load_state_dict(state)

    def test_init_weights_leaves_it_alone(self, toy_model):
        model = MODELS.build(toy_model)
        before = model.teacher.fingerprint()
        model.init_weights()
        assert model.teacher.fingerprint() == before

    def test_train_mode(self, toy_model):
        model = build(toy_model)
        model.train()
        assert model.backbone.training
        assert not any(m.training for m in model.teacher.modules())

    def test_deepcopy_shares_it_and_copies_the_student(self, toy_model,
                                                       images):
        model = build(toy_model)
        twin = copy.deepcopy(model)
        assert twin.teacher is model.teacher
        assert twin.backbone is not model.backbone
        twin.backbone.cls_token.data.add_(1.)
        torch.manual_seed(0)
        ours = model.loss(images, None)
        torch.manual_seed(0)
        theirs = twin.loss(images, None)
        assert ours['loss_align_s2_t3'] != theirs['loss_align_s2_t3']

    def test_it_goes_where_its_images_are(self, toy_model, images):
        model = build(toy_model)
        # As EMAHook(device='cpu') moves a copy, beside a student on a GPU.
        twin = copy.deepcopy(model).to('meta')
        assert {p.device.type for p in model.teacher.parameters()} == {'cpu'}
        restored = pickle.loads(pickle.dumps(model))
        torch.testing.assert_close(
            restored.teacher(images), model.teacher(images), rtol=0, atol=0)
        losses = twin.loss(images.to('meta'), None)
        assert {loss.device.type for loss in losses.values()} == {'meta'}
        assert next(model.teacher.parameters()).is_meta

    def test_it_keeps_its_dtype(self, toy_model, images):
        model = build(toy_model)
        torch.manual_seed(0)
        single = model.loss(images, None)
        torch.manual_seed(0)
        double = model.double().loss(images.double(), None)
        assert {p.dtype for p in model.teacher.parameters()} == {torch.float32}
        assert double['loss_align_s2_t3'].dtype == torch.float64
        for name, loss in single.items():
            torch.testing.assert_close(double[name].float(), loss)

    def test_a_trained_student_needs_no_teacher_file(self, toy_model, images,
                                                     tmp_path):
        trained = build(toy_model)
        torch.save(
            dict(state_dict=trained.state_dict(), meta={}),
            tmp_path / 'student.pth')
        toy_model['teacher'].update(
            checkpoint=str(tmp_path / 'gone.pth'), allow_random=False)
        model = get_model(
            Config(dict(model=toy_model)), str(tmp_path / 'student.pth'))
        torch.testing.assert_close(
            model.extract_feat(images), trained.eval().extract_feat(images))
        with pytest.raises(FileNotFoundError, match='gone.pth'):
            model.loss(images, None)

    def test_its_weights_are_read_on_first_use(self, toy_model, images,
                                               tmp_path):
        vit = MODELS.build(dict(toy_model['teacher']['backbone']))
        torch.nn.init.normal_(vit.cls_token)
        torch.save(vit.state_dict(), tmp_path / 'vit.pth')
        toy_model['teacher']['checkpoint'] = str(tmp_path / 'vit.pth')
        model = MODELS.build(toy_model)
        assert not torch.equal(model.teacher.network.cls_token, vit.cls_token)
        model.loss(images, None)
        assert torch.equal(model.teacher.network.cls_token, vit.cls_token)


def test_a_step_under_bfloat16_autocast(toy_model, images):
    model = build(toy_model)
    torch.manual_seed(0)
    full = model.loss(images, None)
    torch.manual_seed(0)
    with torch.autocast('cpu', torch.bfloat16):
        half = model.loss(images, None)
    assert half['loss_align_s2_t3'].dtype == torch.float32
    for name in full:
        torch.testing.assert_close(
            half[name].float(), full[name], rtol=2e-2, atol=0)


@pytest.mark.parametrize('target, refused', [
    (['backbone.layers.2'], False),
    (['backbone.layers.0', 'backbone.layers.3'], False),
    (['backbone'], True),
])
def test_activation_checkpointing(toy_model, images, target, refused):
    from mmengine.runner.activation_checkpointing import (
        turn_on_activation_checkpointing)
    plain, model = build(toy_model), build(toy_model)
    model.load_state_dict(plain.state_dict())
    turn_on_activation_checkpointing(model, target)
    images.requires_grad_()  # reentrant checkpointing asks for it
    if refused:
        with pytest.raises(RuntimeError, match='carry no gradient.*layers.0'):
            model.loss(images, None)
        return
    for m in (plain, model):
        torch.manual_seed(0)
        m.loss(images, None)['loss_align_s2_t3'].backward()
    for (name, p), q in zip(plain.named_parameters(), model.parameters()):
        if p.grad is not None:
            torch.testing.assert_close(q.grad, p.grad, msg=name)


def test_compiled_gives_the_same_losses_and_gradients(toy_model, images):
    model = build(toy_model)
    gradients = []
    for loss in (model.loss, torch.compile(model.loss, backend='aot_eager')):
        torch.manual_seed(0)
        losses = loss(images, None)
        model.zero_grad()
        sum(losses.values()).backward()
        gradients.append(losses | {
            name: p.grad.clone()
            for name, p in model.named_parameters() if p.grad is not None
        })
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize('change, message', [
    (dict(aligned_layers=[(4, 3)]), 'student has no block 4.*-4 to 3'),
    (dict(aligned_layers=[(2, 6)]), 'teacher has no block 6.*-6 to 5'),
    (dict(aligned_layers=[(2, 0.0)]), r'teacher has no block 0.0.*fraction'),
    (dict(aligned_layers=[(2, 3, 1)]), r'\(2, 3, 1\).*not a list of pairs'),
    (dict(aligned_layers=[2, 3]), r'\[2, 3\].*not a list of pairs'),
    (dict(aligned_layers=[[2], [3]]), r'not a list of pairs'),
    (dict(aligned_layers=[]), 'aligned_layers is empty.*teacher=None'),
    (dict(aligned_layers=[(2, 3),
                          (-2, 0.6)]), r'more than once.*loss_align_s2_t3'),
    (dict(teacher=None), r'\(2, 3\).*teacher=None.*aligned_layers=\[\]'),
    (dict(distill_neck=dict(
        type='FeatureProjectionNeck',
        projector='identity')), 'student is 24 and the teacher 32'),
    (dict(backbone=dict(mask_ratio=1.0)), 'mask_ratio=1.0.*from 0 up to'),
    (dict(backbone=dict(mask_ratio=-0.1)), 'mask_ratio=-0.1.*from 0 up to'),
    (dict(backbone=dict(mask_ratio='0.75')), "mask_ratio='0.75'"),
    (dict(backbone=dict(mask_ratio=0.95)),
     'mask_ratio=0.95 leaves none of the 16.*at most 0.9375'),
    (dict(teacher=None, aligned_layers=[], backbone=dict(mask_ratio=0.0)),
     'masks nothing.*nothing to learn'),
    (dict(backbone=dict(
        type='VisionTransformer', arch='deit-t', _delete_=True)),
     "type='VisionTransformer' is not supported.*MaskedTimmViT, SimMIM"),
    (dict(teacher=dict(backbone=dict(type='HiViT', arch='t', _delete_=True))),
     'HiViT has a grid of 14 x 14 patches, the student of 4 x 4.*img_size'),
    (dict(teacher=dict(backbone=dict(patch_cfg=dict(in_channels=1)))),
     'takes images of 1 channels, the student of 3'),
    (dict(backbone=dict(img_size=(32, 64))), '4 x 8 patches.*square'),
    (dict(teacher=dict(student_input=None)), 'student_input=None.*Remove it'),
    (dict(neck=dict(embed_dim=32)), 'embed_dim is 32.*needs 24'),
    (dict(neck=dict(num_patches=64)), 'num_patches is 64.*needs 16'),
    (dict(backbone=dict(img_size=100)), 'num_patches is 16.*needs 169: 13 rows'
     ' x 13 columns of patches'),
    (dict(backbone=dict(arch='tiny')),
     "backbone: arch='tiny' does not exist. Choose one of deit-tiny, "
     'b, base, deit-b, deit-base, '),
    (dict(teacher=dict(backbone=dict(arch='tiny'))),
     "teacher.backbone: arch='tiny' .* Choose one of deit-tiny, b, base"),
    (dict(neck=dict(patch_size=4)), 'values of a patch.*is 48.*needs 192'),
    (dict(teacher=dict(_delete_=True, type='ClassifierTeacher',
                       model=classifier(), allow_random=True)),
     'ClassifierTeacher has no features of visible patches.*TimmTeacher'),
    (dict(head=dict(in_channels=1)), 'head: in_channels is 1.*needs 3'),
    (dict(head=dict(patch_size=4)), 'head: patch_size is 4.*needs 8'),
    (dict(teacher=dict(allow_random=False)), 'checkpoint=None.*allow_random'),
    (dict(teacher=dict(aligned_blocks=[3])), 'aligned_blocks=.3.*Remove it'),
    (dict(distill_neck=dict(type='FeatureProjectionNeck', teacher_dims=32)),
     'distill_neck: teacher_dims=32.*Remove it'),
    (dict(distill_loss=dict(criterion='L1')),
     "distill_loss=.*is not a dict with a .type"),
    (dict(teacher='vit.pth'), "teacher='vit.pth' is not a dict"),
])
def test_parts_that_do_not_fit_are_refused(toy_model, change, message):
    cfg = Config(dict(model=toy_model))
    if isinstance(change.get('teacher'), str):
        cfg.model.teacher = change['teacher']
    else:
        cfg.merge_from_dict(dict(model=change))
    with pytest.raises(ValueError, match=message):
        MODELS.build(cfg.model)


@pytest.mark.parametrize('section, option, legal', [
    ('', 'techer', 'aligned_layers'),
    ('teacher', 'checkpont', 'checkpoint, .*sha256, .*allow_random'),
    ('distill_neck', 'projektor', 'projector'),
    ('distill_loss', 'weight', 'loss_weight, cls_weight, criterion'),
])
def test_unknown_options_are_refused(toy_model, section, option, legal):
    toy_model.setdefault('distill_neck', dict(type='FeatureProjectionNeck'))
    toy_model.setdefault('distill_loss', dict(type='FeatureAlignmentLoss'))
    (toy_model[section] if section else toy_model)[option] = 'x'
    with pytest.raises(TypeError, match=f"no option {option}='x'.*{legal}"):
        MODELS.build(toy_model)


@pytest.mark.parametrize('channels, options, message', [
    (5, dict(mean=[1.] * 3, std=[1.] * 3),
     r'mean=\[1.0, 1.0, 1.0\] has 3 values, .* 5 channels: give 5 values'),
    (1, dict(mean=[1.] * 3, std=[1.] * 3), 'mean.* has 3 values.* 1 channels'),
    (3, dict(mean=[1.] * 5, std=[1.] * 5), 'mean.* has 5 values.* 3 channels'),
    (5, dict(mean=[1.] * 5, std=[1.] * 4), 'must have the same number'),
    (5, dict(mean=[1.] * 5), 'must have the same number'),
    (4, dict(mean=[1.] * 4, std=[1.] * 4, to_rgb=True),
     'to_rgb=True reverses three channels, .*takes images of 4'),
])
def test_normalisation_of_other_channels_is_refused(toy_model, channels,
                                                    options, message):
    toy_model['backbone']['patch_cfg'] = dict(in_channels=channels)
    toy_model['neck']['in_chans'] = channels
    toy_model['head']['in_channels'] = channels
    toy_model.update(teacher=None, aligned_layers=[])
    for kind in (dict(), dict(type='SelfSupDataPreprocessor')):
        with pytest.raises(ValueError, match=message):
            MODELS.build(dict(toy_model, data_preprocessor=options | kind))


@pytest.mark.parametrize('channels', [1, 2, 3, 5])
def test_each_channel_has_its_mean_and_std(toy_model, channels):
    """One value stands for all; three are reversed if that is asked for."""
    images = torch.arange(channels * 2. * 4).view(2, channels, 2, 2)
    mean, std = torch.arange(channels) + 3., torch.arange(channels) + 2.
    build = functools.partial(ChannelsDataPreprocessor, mean.tolist(),
                              std.tolist())
    wanted = (images - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    batch = dict(inputs=images, data_samples=None)
    assert torch.equal(build()(batch)['inputs'], wanted)
    if channels == 3:
        flipped = (images.flip(1) - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
        assert torch.equal(build(to_rgb=True)(batch)['inputs'], flipped)
    one = ChannelsDataPreprocessor([3.], [2.])
    assert torch.equal(one(batch)['inputs'], (images - 3) / 2)
    assert not build().state_dict()  # as the host's: not in checkpoints
