"""A folder of timm says which model it holds."""
import json

import pytest
import timm
import torch
from mmpretrain.registry import MODELS
from timm.models import save_for_hf

from dmae_mm.weights.formats import described_folder
from tests.toys.models import randomize


def build(folder, **options):
    teacher = MODELS.build(
        dict(
            type='TimmTeacher',
            checkpoint=str(folder),
            aligned_blocks=(1, ),
            **options))
    teacher.init_weights()
    return teacher


def test_as_timm_saves_it(tmp_path):
    """With its two files of the same weights."""
    kwargs = dict(
        img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2)
    model = timm.create_model(
        'vit_small_patch14_reg4_dinov2.lvd142m', **kwargs).eval()
    randomize(model)
    save_for_hf(
        model, tmp_path, model_args=kwargs, safe_serialization='both')
    assert len(list(tmp_path.iterdir())) == 3
    teacher = build(tmp_path)
    images = torch.randn(
        2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        _, prefix_and_patches = model.forward_intermediates(
            images, indices=[1], output_fmt='NLC',
            return_prefix_tokens=True)
    patches, prefix = prefix_and_patches[0]
    torch.testing.assert_close(
        teacher(images)[0], torch.cat([prefix, patches], 1), rtol=1e-5,
        atol=1e-5)
    assert list(teacher.image_matcher.mean) == pytest.approx(
        [123.675, 116.28, 103.53])


@pytest.mark.parametrize('config, message', [
    (dict(architecture='hf-hub:a/b'), "architecture='hf-hub:a/b'"),
    (dict(architecture=[3]), r'architecture=\[3\]'),
    (dict(architecture='vit_no', pretrained_cfg=dict(mean=[1], std=[1])),
     "model_name='vit_no' is no model of timm"),
    (dict(architecture='vit_tiny_patch16_224', model_args=[]), 'model_args='),
    (dict(architecture='vit_tiny_patch16_224'), 'were normalised'),
    (dict(architecture='vit_tiny_patch16_224', mean=[1], std=[0]), 'std='),
    (dict(architecture='vit_tiny_patch16_224', mean=[1], std=[1],
          model_args=dict(checkpoint_path='x')), 'checkpoint_path'),
    (dict(name='x'), 'no config.json of Hugging Face .* Give model_name'),
])
def test_senseless_configs(tmp_path, config, message):
    (tmp_path / 'config.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        build(tmp_path)


def test_known_images_are_not_asked_for(tmp_path):
    (tmp_path / 'config.json').write_text(
        json.dumps(dict(architecture='vit_tiny_patch16_224')))
    assert described_folder(str(tmp_path), knows_images=True) == dict(
        model_name='vit_tiny_patch16_224', model_kwargs={})
