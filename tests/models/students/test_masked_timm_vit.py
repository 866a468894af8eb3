"""A ViT of timm as student: timm's own features, MAE's own mask."""
import copy

import pytest
import timm
import torch
from mmpretrain.registry import MODELS

from dmae_mm.host import quietly
from dmae_mm.weights import backbone_to_timm
from tests.toys.models import LIGHT, TOY_MODEL, randomize, timm_student
from tests.toys.timm_families import (FAMILIES, NO_CLS, PREFIX_TOKENS,
                                      patch_size, toy_kwargs)


def family_cfg(family, **changes):
    kwargs = toy_kwargs(family)
    del kwargs['num_classes']
    return dict(
        type='MaskedTimmViT',
        model_name=FAMILIES[family],
        img_size=kwargs.pop('img_size'),
        model_kwargs=dict(kwargs, depth=4)) | changes


def family_student(family, **changes):
    """In it, every weight makes a difference."""
    student = MODELS.build(family_cfg(family, **changes))
    randomize(student)
    return student.eval()


def images_of(family):
    side = 4 * patch_size(family)
    return torch.randn(
        3, 3, side, side, generator=torch.Generator().manual_seed(1))


def visible(mask, ids_restore):
    """Indices of the visible patches in the order of the draw."""
    number = int((mask[0] == 0).sum())
    ids = ids_restore.argsort(dim=1)[:, :number]
    assert not mask.gather(1, ids).any()
    return ids


@pytest.mark.parametrize('family', FAMILIES)
def test_all_patches_equal_timm(family):
    """Whole images, and all patches in the order of a draw."""
    student, images = family_student(family), images_of(family)
    kwargs = dict(toy_kwargs(family), depth=4, num_classes=0)
    whole = timm.create_model(FAMILIES[family], **kwargs).eval()
    whole.load_state_dict(
        student.timm_model.state_dict(), strict='map' not in str(
            whole.global_pool))
    num_prefix = PREFIX_TOKENS.get(family, 1)
    with torch.no_grad():
        tokens = whole.fc_norm(whole.forward_features(images))
        feature, = student(images, mask=None)
        student.mask_ratio = 0.
        latent, mask, ids_restore = student(images)
    patches = tokens[:, num_prefix:]
    cls_token = tokens[:, :family not in NO_CLS]
    torch.testing.assert_close(
        feature, torch.cat([cls_token, patches], 1), rtol=0, atol=1e-6)
    ids = visible(mask, ids_restore)
    assert ids.shape == (3, 16) and not mask.any()
    wanted = torch.cat(
        [cls_token, patches.gather(1, ids[..., None].expand(-1, -1, 32))], 1)
    torch.testing.assert_close(latent, wanted, rtol=1e-5, atol=1e-5)
    assert student.num_extra_tokens == int(family not in NO_CLS)
    assert student.num_prefix_tokens == num_prefix
    assert student.embed_dims == 32 and student.patch_resolution == (4, 4)


@pytest.mark.parametrize('family', FAMILIES)
def test_blocks_see_what_a_teacher_of_the_same_weights_sees(family):
    student, images = family_student(family), images_of(family)
    teacher = MODELS.build(
        dict(
            type='TimmTeacher',
            model_name=FAMILIES[family],
            model_kwargs=dict(toy_kwargs(family), depth=4),
            aligned_blocks=[1, 3],
            allow_random=True))
    weights = student.timm_model.state_dict()
    teacher.network.load_state_dict(
        {name: weights[name] for name in teacher.network.state_dict()})
    blocks = []
    for index in (1, 3):
        student.layers[index].register_forward_hook(
            lambda module, args, output: blocks.append(output))
    with torch.no_grad():
        latent, mask, ids_restore = student(images)
    assert latent.shape == (3, student.num_extra_tokens + 4, 32)
    assert mask.sum(1).tolist() == [12] * 3
    for ours, theirs in zip(blocks,
                            teacher(images, visible(mask, ids_restore))):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('ratio', [0.75, 0.9, 0.5])
def test_the_mask_is_that_of_mae(images, ratio):
    """Of MAEViT, from the same random state."""
    stock = copy.deepcopy(TOY_MODEL['backbone'])
    masks = []
    for cfg in (stock, timm_student()):
        backbone = MODELS.build(dict(cfg, mask_ratio=ratio))
        torch.manual_seed(5)
        masks.append(backbone(images)[1:])
    for ours, theirs in zip(*masks):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)


def test_every_patch_is_hidden_as_often():
    student = MODELS.build(timm_student())
    torch.manual_seed(0)
    with torch.no_grad():
        hidden = student(torch.zeros(800, 3, 32, 32))[1].mean(0)
    # Five standard deviations of 800 draws with probability 0.75.
    assert hidden.shape == (16, ) and (hidden - .75).abs().max() < .077


def pair_of_models(neck=TOY_MODEL['neck']):
    """With MAEViT and with timm's ViT as student, of equal weights."""
    models = []
    for backbone in (TOY_MODEL['backbone'], timm_student()):
        model = MODELS.build(
            copy.deepcopy(dict(TOY_MODEL, backbone=backbone, neck=neck)))
        randomize(model)
        models.append(model)
    stock, ours = models
    ours.backbone.timm_model.load_state_dict(
        backbone_to_timm(stock.backbone.state_dict()))
    return stock, ours


@pytest.mark.parametrize('neck', [TOY_MODEL['neck'], LIGHT],
                         ids=['stock', 'light'])
def test_losses_and_gradients_equal_those_of_mae(images, neck):
    losses, gradients = [], []
    for model in pair_of_models(neck):
        torch.manual_seed(1)
        losses.append(model.loss(images, None))
        sum(losses[-1].values()).backward()
        gradients.append({
            name: parameter.grad
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        })
    assert list(losses[0]) == ['loss_recon', 'loss_align_s2_t3']
    for name, loss in losses[0].items():
        torch.testing.assert_close(losses[1][name], loss, rtol=1e-6, atol=0)
    theirs = backbone_to_timm({
        name[len('backbone.'):]: grad
        for name, grad in gradients[0].items() if name.startswith('backbone.')
    })
    ours = {name: gradients[1][f'backbone.timm_model.{name}']
            for name in theirs}
    for name, grad in theirs.items():
        torch.testing.assert_close(ours[name], grad, rtol=1e-4, atol=1e-6)
    # Positions are learnt here.
    positions = gradients[1].pop('backbone.timm_model.pos_embed')
    assert positions.abs().sum() > 0
    assert len(gradients[0]) == len(gradients[1])


REGISTERS = timm_student(
    model_name='vit_small_patch14_reg4_dinov2', mask_ratio=.5)
NO_CLS_TOKEN = timm_student(
    model_name='vit_base_patch16_gap_224')
ROTARY = timm_student(model_name='vit_small_patch16_dinov3')
ROTARY['model_kwargs']['num_heads'] = 3


@pytest.mark.parametrize('backbone', [REGISTERS, NO_CLS_TOKEN, ROTARY],
                         ids=['registers', 'no CLS', 'rotary, registers'])
def test_a_step_trains_everything(toy_model, images, backbone):
    toy_model['backbone'] = copy.deepcopy(backbone)
    model = MODELS.build(toy_model)
    with quietly():
        model.init_weights()
    sum(model.loss(images, None).values()).backward()
    left = [name for name, parameter in model.named_parameters()
            if parameter.requires_grad and (
                parameter.grad is None or not parameter.grad.any())]
    # timm's Eva starts with a bias of keys that has no effect on softmax.
    assert [name for name in left if 'bias' not in name] == []


def test_a_step_compiles_in_one_graph(toy_model, images):
    toy_model['backbone'] = copy.deepcopy(ROTARY)
    model = MODELS.build(toy_model)
    compiled = torch.compile(model.loss, backend='eager', fullgraph=True)
    for seed in (1, 2):
        torch.manual_seed(seed)
        wanted = model.loss(images, None)
        torch.manual_seed(seed)
        for name, loss in compiled(images, None).items():
            torch.testing.assert_close(loss, wanted[name])


@pytest.mark.parametrize('backbone, num_prefix, both_cls', [
    (REGISTERS, 5, True), (NO_CLS_TOKEN, 0, False), (ROTARY, 5, True)])
def test_registers_are_never_aligned(toy_model, images, backbone, num_prefix,
                                     both_cls):
    """By hand: patches, and CLS where both sides have one."""
    toy_model['backbone'] = copy.deepcopy(backbone)
    model = MODELS.build(toy_model)
    randomize(model)
    tokens, latents = [], []
    model.backbone.layers[2].register_forward_hook(
        lambda module, args, output: tokens.append(output))
    model.backbone.register_forward_hook(
        lambda module, args, output: latents.append(output))
    losses = model.loss(images, None)
    latent, mask, ids_restore = latents[0]
    ids_keep = visible(mask, ids_restore)
    feature, = tokens
    assert feature.shape[1] == num_prefix + ids_keep.shape[1]
    assert latent.shape[1] == both_cls + ids_keep.shape[1]
    teacher, = model.teacher(images, ids_keep)
    if both_cls:
        feature = torch.cat([feature[:, :1], feature[:, num_prefix:]], 1)
    else:
        teacher = teacher[:, 1:]
    normalize = torch.nn.functional.normalize
    projected = model.distill_neck.projectors[0](feature)
    distance = normalize(projected, dim=-1) - normalize(teacher, dim=-1)
    torch.testing.assert_close(losses['loss_align_s2_t3'],
                               distance.abs().mean())


def test_it_starts_as_timm_does(toy_model):
    """Whatever the init_cfg of the model around it, and with and without a
    teacher."""
    # Xavier, which mmpretrain's MAE configs give the whole model.
    xavier = dict(type='Xavier', layer='Linear', distribution='uniform')
    started = []
    for changes in ({}, dict(init_cfg=xavier),
                    dict(teacher=None, aligned_layers=[])):
        torch.manual_seed(3)
        model = MODELS.build(
            copy.deepcopy(toy_model) | dict(backbone=timm_student()) | changes)
        torch.manual_seed(4)
        with quietly():
            model.init_weights()
        started.append(model.backbone.timm_model.state_dict())
    assert all(
        torch.equal(tensor, other[name])
        for other in (started[0], started[2])
        for name, tensor in started[0].items())
    for state in started:
        assert .018 < state['blocks.1.mlp.fc1.weight'].std() < .022
        assert .018 < state['pos_embed'].std() < .022
        assert not state['blocks.1.mlp.fc1.bias'].any()
        assert (state['norm.weight'] == 1).all()
    assert not torch.equal(started[0]['cls_token'],
                           torch.zeros_like(started[0]['cls_token']))


def test_oblong_images_of_one_channel():
    student = MODELS.build(
        timm_student(
            img_size=[32, 16],
            model_kwargs=dict(
                patch_size=(8, 4), embed_dim=24, depth=2, num_heads=2,
                in_chans=1)))
    assert student.img_size == (32, 16)
    assert student.patch_resolution == (4, 4)
    latent, mask, _ = student(torch.randn(2, 1, 32, 16))
    assert latent.shape == (2, 5, 24) and mask.shape == (2, 16)


@pytest.mark.parametrize('changes, said', [
    (dict(model_name='vit_tiny_patch16_225'),
     "backbone: model_name='vit_tiny_patch16_225' is no model of timm.*"
     'vit_tiny_patch16_224'),
    (dict(model_name='beit_base_patch16_224', model_kwargs={}),
     'backbone: .* is a Beit, which cannot run on visible patches'),
    (dict(model_name='vit_relpos_small_patch16_224', model_kwargs={}),
     'is a VisionTransformerRelPos'),
    (dict(model_name='vit_small_r26_s32_224', model_kwargs={}),
     'HybridEmbed, which mixes hidden patches'),
    (dict(model_kwargs=dict(pretrained=True)),
     r"backbone.model_kwargs: \['pretrained'\].*init_cfg"),
    (dict(model_kwargs=dict(img_size=32)), "img_size=32 must not be given"),
    (dict(model_kwargs=dict(patch_drop_rate=.5)),
     'patch_drop_rate=0.5 must not be given. Give the mask_ratio'),
    (dict(model_kwargs=dict(depht=3)), "cannot create.*depht"),
    (dict(img_size=36), r'img_size=\(36, 36\) is no multiple of the patch '
     r'size \(8, 8\).*Give img_size=\(32, 32\)'),
    (dict(init_cfg=dict(type='Xavier', layer='Linear')),
     'init_cfg=.*is neither None'),
    (dict(init_cfg=dict(type='Pretrained', checkpoint='x', prefix='y.')),
     'which finds the names by itself'),
])
def test_what_cannot_work_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        MODELS.build(timm_student(**changes))


def test_a_mistyped_option_is_refused():
    with pytest.raises(TypeError, match='mask_ration.*mask_ratio'):
        MODELS.build(timm_student(mask_ration=.5))


@pytest.mark.parametrize('changes, said', [
    (dict(mask_ratio=.99), 'leaves none of the 16'),
    (dict(img_size=64), 'neck: num_patches is 16.*needs 64'),
    (dict(model_kwargs=dict(patch_size=(8, 4), embed_dim=24, depth=4),
          img_size=(32, 16)), r'patches are \(8, 4\) px'),
    (dict(img_size=(32, 64)), '4 x 8 patches.*square'),
    (dict(model_kwargs=dict(patch_size=8, embed_dim=48, depth=4)),
     'neck: embed_dim is 24.*needs 48'),
])
def test_parts_of_other_sizes_are_refused(toy_model, changes, said):
    toy_model['backbone'] = timm_student(**changes)
    with pytest.raises(ValueError, match=said):
        MODELS.build(toy_model)


def test_without_decoder_only_the_teacher_teaches(toy_model, images):
    """What lies behind the last block is frozen, as DDP wants it."""
    toy_model['aligned_layers'] = [(-1, 3)]
    losses, state = [], {}
    for parts in (dict(), dict(neck=None, head=None)):
        model = MODELS.build(
            copy.deepcopy(dict(toy_model, backbone=REGISTERS) | parts))
        model.load_state_dict(state, strict=False)
        state = model.state_dict()
        torch.manual_seed(1)
        losses.append(model.loss(images, None))
    assert losses[1].keys() == {'loss_align_s3_t3'}
    assert torch.equal(*(loss['loss_align_s3_t3'] for loss in losses))
    sum(losses[1].values()).backward()
    parameters = dict(model.backbone.named_parameters())
    assert {name for name in parameters
            if not parameters[name].requires_grad} == {
                'timm_model.norm.weight', 'timm_model.norm.bias'}
    assert all(parameter.grad is not None for parameter in
               parameters.values() if parameter.requires_grad)


def test_without_decoder_images_may_be_oblong(toy_model):
    toy_model.update(
        backbone=timm_student(img_size=(32, 64)), neck=None, head=None,
        aligned_layers=[(-1, 3)])
    toy_model['teacher'] = dict(
        type='TimmTeacher', model_name='vit_tiny_patch16_224',
        model_kwargs=dict(
            img_size=64, patch_size=16, embed_dim=32, depth=6, num_heads=2),
        allow_random=True)
    model = MODELS.build(toy_model)
    assert model.teacher.patch_grid == (4, 8)
    assert model.loss(torch.randn(2, 3, 32, 64), None)['loss_align_s3_t3'] > 0


def test_without_decoder_and_teacher(toy_model, images):
    toy_model.update(neck=None, head=None, teacher=None, aligned_layers=[])
    model = MODELS.build(toy_model)
    assert len(model.extract_feat(images)) == 1
    with pytest.raises(ValueError, match='nothing to learn. Give one'):
        model.loss(images, None)
