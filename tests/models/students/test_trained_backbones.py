"""What SimMIM's and SparK's students leave is an ordinary backbone."""
import copy

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from dmae_mm.evaluation import FeatureModel, extract_features
from dmae_mm.evaluation.images import image_size
from dmae_mm.evaluation.layer_similarity import compare_layers
from dmae_mm.evaluation.reconstruction import reconstruct_with_checkpoint
from dmae_mm.host import quietly
from dmae_mm.weights import export_checkpoint
from dmae_mm.weights.check_transfer import check_transfer
from tests.toys.masked_students import (STUDENTS, batch, build,
                                        masked_student)

ORDINARY = dict(
    SimMIM=('SwinTransformer', {}),
    SparKResNet=('ResNet', dict(norm_cfg=dict(type='BN'))),
    SparKConvNeXt=('ConvNeXt', dict(gap_before_final_norm=True)))
each_student = pytest.mark.parametrize('name', STUDENTS)


def train(name, folder):
    """A few steps, and the checkpoint; the norms have seen masked images."""
    model = build(masked_student(name))
    optimizer = torch.optim.AdamW(model.parameters(), .01)
    for seed in range(3):
        optimizer.zero_grad()
        sum(model.loss(*batch(seed=seed)).values()).backward()
        optimizer.step()
    torch.save(dict(state_dict=model.state_dict(), meta={}),
               folder / 'student.pth')
    return model.eval()


def classifier(name, checkpoint):
    cls, changes = ORDINARY[name]
    backbone = copy.deepcopy(STUDENTS[name]['backbone'])
    for option in ('norm_cfg', 'gap_before_output'):
        backbone.pop(option, None)
    init_cfg = dict(
        type='Pretrained', checkpoint=str(checkpoint), prefix='backbone.')
    return dict(
        type='ImageClassifier',
        backbone=dict(
            backbone, type=cls, out_indices=(3, ), init_cfg=init_cfg,
            **changes),
        neck=None if name == 'SparKConvNeXt' else dict(
            type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=5, in_channels=64))


@each_student
def test_every_tensor_arrives_and_features_are_the_same(name, tmp_path):
    trained = train(name, tmp_path)
    cfg = classifier(name, tmp_path / 'student.pth')
    Config(dict(model=cfg, default_scope='mmpretrain')).dump(
        tmp_path / 'cfg.py')
    lines, problem = check_transfer(
        str(tmp_path / 'cfg.py'), str(tmp_path / 'student.pth'))
    assert not problem, problem
    text = '\n'.join(lines)
    assert 'unused in the checkpoint: 0' in text, text
    assert ('mask_token (1)' in text) == (name == 'SimMIM'), text
    assert ('new: not in this pre-training: 2\n  norm3.weight' in text) == (
        name == 'SparKConvNeXt')
    with DefaultScope.overwrite_default_scope('mmpretrain'), quietly():
        model = MODELS.build(cfg)
        model.init_weights()
    model.eval()
    ordinary, images = model.backbone, batch()[0]
    maps = []
    stages = (
        [ordinary.layer1, ordinary.layer4] if name == 'SparKResNet' else
        [ordinary.stages[0], ordinary.stages[-1]])
    for stage in stages:
        stage.register_forward_hook(
            lambda module, args, output: maps.append(output))
    with torch.no_grad():
        output = model.backbone(images)[0]
        wanted = trained.extract_feat(images)
    if name == 'SimMIM':
        torch.testing.assert_close(output, wanted[0], rtol=1e-5, atol=1e-5)
    else:
        for ours, theirs in zip(maps, (wanted[0], wanted[-1])):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@each_student
def test_what_needs_tokens_of_patches_says_so(name, tmp_path):
    train(name, tmp_path)
    paths = str(tmp_path / 'cfg.py'), str(tmp_path / 'student.pth')
    Config(dict(model=masked_student(name), default_scope='mmpretrain')).dump(
        paths[0])
    kind = STUDENTS[name]['backbone']['type']
    with pytest.raises(ValueError, match=f'{kind}, but pixels are recons'):
        reconstruct_with_checkpoint(*paths, ['image.png'])
    with pytest.raises(ValueError, match=f'{kind}, which has no tokens'):
        compare_layers(paths[0], str(tmp_path))
    with pytest.raises(ValueError, match=kind):
        export_checkpoint(*paths, str(tmp_path / 'x.pth'), 'timm')


def test_evaluated_are_images_of_the_size_of_a_swin():
    backbone = build(masked_student('SimMIM')).backbone
    assert image_size(backbone) == 64
    assert image_size(build(masked_student('SparKResNet')).backbone) == 224


@each_student
def test_it_is_evaluated_on_whole_images(name, tmp_path):
    """By the checkpoint alone, and as the online probe does it."""
    trained = train(name, tmp_path)
    cfg = masked_student(name)
    cfg['teacher'].update(checkpoint='gone.pth', allow_random=False)
    Config(dict(model=cfg, default_scope='mmpretrain')).dump(
        tmp_path / 'cfg.py')
    model = FeatureModel(
        str(tmp_path / 'cfg.py'), str(tmp_path / 'student.pth'))
    images = batch(4)[0]
    loader = [
        dict(inputs=part,
             data_samples=[DataSample().set_gt_label(i) for i in (0, 1)])
        for part in images.split(2)
    ]
    features, labels = extract_features(model, loader)
    assert labels.tolist() == [0, 1, 0, 1] and features.shape == (4, 64)
    trained.train()
    trained.loss(*batch())  # leaves a mask of three images behind
    trained.load_state_dict(torch.load(
        tmp_path / 'student.pth', weights_only=True)['state_dict'])
    again, _ = extract_features(trained, loader)
    np.testing.assert_allclose(again, features, rtol=1e-4, atol=1e-5)
    assert trained.backbone.training
    with torch.no_grad():
        whole = trained.eval().extract_feat(images)[-1].mean((2, 3))
    np.testing.assert_allclose(whole, features, rtol=1e-4, atol=1e-5)
