"""Aligned are patch tokens always, CLS if both sides have it, registers never.
"""
import pytest
import torch
import torch.nn.functional as F
from mmpretrain.registry import MODELS
from tests.toys.models import HIVIT_TEACHER, randomize


NAMES = {
    'CLS': 'vit_base_patch16_224.mae',
    'CLS and distillation token': 'deit_tiny_distilled_patch16_224.fb_in1k',
    'CLS and registers': 'vit_small_patch14_reg4_dinov2.lvd142m',
    'CLS, registers, rotary': 'vit_small_patch16_dinov3.lvd1689m',
    'registers alone': 'vit_so150m_patch16_reg4_map_256',
    'nothing': 'vit_base_patch16_siglip_224.webli',
}
# Which teacher tokens are aligned, of prefix and 4 visible patches, with a
# student that has CLS, and with one that has none.
ALIGNED = {
    'CLS': ([0, 1, 2, 3, 4], [1, 2, 3, 4]),
    'CLS and distillation token': ([0, 2, 3, 4, 5], [2, 3, 4, 5]),
    'CLS and registers': ([0, 5, 6, 7, 8], [5, 6, 7, 8]),
    'CLS, registers, rotary': ([0, 5, 6, 7, 8], [5, 6, 7, 8]),
    'registers alone': ([4, 5, 6, 7], [4, 5, 6, 7]),
    'nothing': ([0, 1, 2, 3], [0, 1, 2, 3]),
}


@pytest.mark.parametrize('student', ['ViT', 'HiViT'])
@pytest.mark.parametrize('prefix', NAMES)
def test_loss_against_the_rule(toy_model, images, prefix, student):
    toy_model['teacher'] = dict(
        type='TimmTeacher',
        model_name=NAMES[prefix],
        model_kwargs=dict(
            img_size=56 if 'patch14' in NAMES[prefix] else 64,
            embed_dim=32,
            depth=4,
            num_heads=2),
        allow_random=True)
    if student == 'HiViT':
        toy_model['backbone'] = dict(
            HIVIT_TEACHER, type='MAEHiViT', mask_ratio=.75)
        toy_model['neck']['embed_dim'] = 32
    torch.manual_seed(0)
    model = MODELS.build(toy_model)
    randomize(model.teacher.network)
    recorded = {}
    model.backbone.register_forward_hook(
        lambda module, args, output: recorded.update(ids=output[2]))
    blocks = (
        model.backbone.layers
        if student == 'ViT' else model.backbone.blocks[-8:])
    blocks[2].register_forward_hook(
        lambda module, args, output: recorded.update(tokens=output))
    loss = model.loss(images, None)['loss_align_s2_t3']

    ids_keep = recorded['ids'].argsort(dim=1)[:, :4]
    wanted, = model.teacher(images, ids_keep)
    with_cls, without = ALIGNED[prefix]
    assert wanted.shape[1] == with_cls[-1] + 1
    wanted = wanted[:, with_cls if student == 'ViT' else without]
    given = recorded['tokens'][:, -wanted.shape[1]:]
    given = model.distill_neck.projectors[0](given)
    torch.testing.assert_close(
        loss, (F.normalize(given, dim=-1) -
               F.normalize(wanted, dim=-1)).abs().mean())
