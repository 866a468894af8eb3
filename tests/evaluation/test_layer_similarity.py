"""CKA between a student's and its teacher's blocks, and what is chosen."""
import copy

import pytest
import torch
from mmpretrain.registry import MODELS

from dmae_mm.evaluation.cka import minibatch_cka
from dmae_mm.evaluation.layer_similarity import (build_whole_teacher,
                                                 layer_similarity,
                                                 most_similar, resolve_pairs,
                                                 rule_pair)
from dmae_mm.models.student_input import StudentInput
from tests.toys.models import HIVIT_STUDENT, TEACHER, TOY_MODEL, randomize
from tests.toys.models import classifier, timm_student

RANDOM = TOY_MODEL['teacher']
TIMM = dict(
    type='TimmTeacher',
    model_name='vit_tiny_patch16_224',
    model_kwargs=dict(
        img_size=32, patch_size=8, embed_dim=32, depth=5, num_heads=2,
        reg_tokens=2),
    allow_random=True)


def student(**backbone):
    torch.manual_seed(0)
    cfg = copy.deepcopy(TOY_MODEL)
    cfg.update(teacher=None, aligned_layers=[])
    cfg['backbone'].update(backbone)
    cfg['neck']['embed_dim'] = cfg['backbone']['arch']['embed_dims']
    model = MODELS.build(cfg)
    model.init_weights()
    randomize(model.backbone)
    return model


def whole_teacher(model, cfg=RANDOM):
    teacher = build_whole_teacher(
        cfg, StudentInput.of_vit(model.backbone, model.data_preprocessor))
    randomize(teacher.network)
    return teacher


def batches(number=2, size=12):
    generator = torch.Generator().manual_seed(1)
    return [
        dict(
            inputs=torch.randn(size, 3, 32, 32, generator=generator),
            data_samples=None) for _ in range(number)
    ]


def test_a_model_with_itself(tmp_path):
    """1 on the diagonal, less elsewhere, and symmetric."""
    model = student(arch=TEACHER)
    path = tmp_path / 'same.pth'
    torch.save(model.state_dict(), path)
    teacher = build_whole_teacher(
        dict(
            type='MMPretrainTeacher',
            backbone=RANDOM['backbone'],
            checkpoint=str(path)),
        StudentInput.of_vit(model.backbone, model.data_preprocessor))
    assert teacher.aligned_blocks == (0, 1, 2, 3, 4, 5)
    cka = layer_similarity(model, teacher, batches())
    torch.testing.assert_close(
        cka.diagonal(), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(cka, cka.T)
    off_diagonal = cka[~torch.eye(6, dtype=torch.bool)]
    assert off_diagonal.max() < 0.999


@pytest.mark.parametrize('teacher, depth', [(RANDOM, 6), (TIMM, 5)])
def test_one_token_of_each_image_is_a_minibatch(teacher, depth):
    """Against tokens that are recorded elsewhere; one visible patch."""
    model = student(mask_ratio=0.9)
    network = whole_teacher(model, teacher)
    batch, = batches(1)
    torch.manual_seed(5)
    cka = layer_similarity(model, network, [batch])
    assert cka.shape == (4, depth)

    ours = []
    for layer in model.backbone.layers:
        layer.register_forward_hook(
            lambda module, args, output: ours.append(output[:, 1]))
    torch.manual_seed(5)
    with torch.no_grad():
        _, _, ids_restore = model.backbone(batch['inputs'])
    ids_keep = (ids_restore == 0).nonzero()[:, 1:]
    theirs = [
        tokens[:, -1] for tokens in network(batch['inputs'], ids_keep)
    ]
    wanted = minibatch_cka([([token[None] for token in ours],
                             [token[None] for token in theirs])])
    torch.testing.assert_close(cka, wanted)


def test_a_student_without_cls():
    model = MODELS.build(
        dict(
            copy.deepcopy(TOY_MODEL),
            backbone=copy.deepcopy(HIVIT_STUDENT),
            teacher=None,
            aligned_layers=[]))
    assert layer_similarity(model, whole_teacher(model),
                            batches(1)).shape == (8, 6)


def test_a_student_with_registers_and_itself():
    """Patches alone are compared: the same blocks give 1."""
    cfg = timm_student(model_name='vit_small_patch14_reg4_dinov2')
    model = MODELS.build(
        dict(
            copy.deepcopy(TOY_MODEL),
            backbone=cfg,
            teacher=None,
            aligned_layers=[]))
    randomize(model.backbone)
    teacher = whole_teacher(
        model,
        dict(TIMM, model_name=cfg['model_name'],
             model_kwargs=dict(cfg['model_kwargs'], img_size=32)))
    weights = model.backbone.timm_model.state_dict()
    teacher.network.load_state_dict(
        {name: weights[name] for name in teacher.network.state_dict()})
    cka = layer_similarity(model, teacher, batches())
    torch.testing.assert_close(
        cka.diagonal(), torch.ones(4, dtype=torch.float64))


def test_teachers_without_visible_patches_are_refused():
    model = student()
    with pytest.raises(ValueError, match='ClassifierTeacher has no features'):
        build_whole_teacher(
            dict(
                type='ClassifierTeacher',
                model=classifier(),
                allow_random=True),
            StudentInput.of_vit(model.backbone, model.data_preprocessor))


def test_a_teacher_of_decoder_features_is_refused():
    model = student()
    with pytest.raises(ValueError, match='MAETeacher shows no outputs of'):
        build_whole_teacher(
            dict(
                type='MAETeacher',
                backbone=TOY_MODEL['teacher']['backbone'],
                allow_random=True),
            StudentInput.of_vit(model.backbone, model.data_preprocessor))


CKA = torch.tensor([[.9, .5, .4, .1], [.2, .8, .8, .7], [.1, .3, .2, .6],
                    [.1, .2, .3, .4]], dtype=torch.float64)


def test_pairs():
    """Block round(0.75 * 4) - 1 = 2; of equal ones, the first."""
    assert rule_pair(CKA) == dict(student=2, teacher=2, cka=.2)
    assert most_similar(CKA, [2, 1]) == [
        dict(student=2, teacher=3, cka=.6),
        dict(student=1, teacher=1, cka=.8)
    ]
    assert resolve_pairs([(-1, 0.5), (0, 2)], 4, 6) == [(3, 2), (0, 2)]
    with pytest.raises(ValueError, match='teacher has no block 6'):
        resolve_pairs([(0, 6)], 4, 6)
    with pytest.raises(ValueError, match='not a list of pairs'):
        resolve_pairs([3], 4, 6)
