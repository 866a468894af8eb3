"""One training step equals the reference implementation's, to 1e-5."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmpretrain.registry import MODELS

from dmae_mm.weights import mae_to_mmpretrain

DATA = Path(__file__).parents[1] / 'data'
PROJECTORS = {'fc-1layer': 'linear'}


@pytest.fixture(scope='module')
def golden():
    file = np.load(DATA / 'golden_linear_l1.npz')
    return {name: file[name] for name in file.files}


def weights(golden, side):
    return {
        name[len(side) + 1:]: torch.from_numpy(value)
        for name, value in golden.items() if name.startswith(side + '/')
    }


@pytest.fixture(scope='module')
def step(golden, tmp_path_factory):
    """Model and outputs of the golden step, as a user would get there."""
    meta = json.loads(str(golden['meta']))
    teacher_file = tmp_path_factory.mktemp('golden') / 'mae.pth'
    torch.save(dict(model=weights(golden, 'teacher')), teacher_file)
    size = dict(img_size=meta['img_size'], patch_size=meta['patch_size'])
    model = MODELS.build(
        dict(
            type='DMAE',
            backbone=dict(
                type='MAEViT', arch=meta['student'],
                mask_ratio=meta['mask_ratio'], **size),
            neck=dict(
                type='MAEPretrainDecoder',
                num_patches=(meta['img_size'] // meta['patch_size'])**2,
                patch_size=meta['patch_size'],
                embed_dim=meta['student']['embed_dims'],
                decoder_embed_dim=meta['decoder']['embed_dim'],
                decoder_depth=meta['decoder']['depth'],
                decoder_num_heads=meta['decoder']['num_heads']),
            head=dict(
                type='MAEPretrainHead',
                norm_pix=meta['norm_pix'],
                patch_size=meta['patch_size'],
                loss=dict(type='PixelReconstructionLoss', criterion='L2')),
            teacher=dict(
                type='MMPretrainTeacher',
                backbone=dict(type='MAEViT', arch=meta['teacher'], **size),
                checkpoint=str(teacher_file)),
            aligned_layers=meta['aligned_layers'],
            distill_neck=dict(
                type='FeatureProjectionNeck',
                projector=PROJECTORS[meta['projection']]),
            distill_loss=dict(
                type='FeatureAlignmentLoss', criterion=meta['criterion'])))
    model.init_weights()
    model.load_state_dict(
        mae_to_mmpretrain(weights(golden, 'student')), strict=True)
    model.train()

    outputs = {}
    model.neck.register_forward_hook(
        lambda module, args, output: outputs.update(pred=output))
    images = torch.from_numpy(golden['images'])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, 'rand', lambda *args, **kwargs: torch.from_numpy(
            golden['noise']))
        losses = model.loss(images, data_samples=None)
    sum(losses.values()).backward()
    return model, images, losses, outputs


def test_losses(golden, step):
    _, _, losses, _ = step
    assert list(losses) == ['loss_recon', 'loss_align_s2_t3']
    torch.testing.assert_close(
        losses['loss_recon'].item(), float(golden['loss_recon']),
        rtol=1e-5, atol=0)
    torch.testing.assert_close(
        losses['loss_align_s2_t3'].item(), float(golden['loss_align/2']),
        rtol=1e-5, atol=0)


def test_prediction(golden, step):
    torch.testing.assert_close(
        step[3]['pred'], torch.from_numpy(golden['pred']), rtol=1e-5,
        atol=1e-6)


def test_teacher_features(golden, step):
    model, images, _, _ = step
    feature, = model.teacher(images, torch.from_numpy(golden['ids_keep']))
    torch.testing.assert_close(
        feature, torch.from_numpy(golden['teacher_feature/3']), rtol=1e-5,
        atol=1e-6)


def test_gradients(golden, step):
    norms = {
        name[len('grad_norm/'):]: torch.tensor(float(value))
        for name, value in golden.items() if name.startswith('grad_norm/')
    }
    wanted = mae_to_mmpretrain(norms)
    parameters = {
        name: parameter
        for name, parameter in step[0].named_parameters()
        if parameter.requires_grad
    }
    assert wanted.keys() == parameters.keys()
    for name, parameter in parameters.items():
        torch.testing.assert_close(
            parameter.grad.double().norm(), wanted[name].double(), rtol=1e-5,
            atol=1e-8, msg=name)
