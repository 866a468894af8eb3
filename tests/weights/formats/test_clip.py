"""The vision towers of open_clip's and OpenAI's CLIP models teach."""
import json

import pytest
import timm
import torch

from dmae_mm.models.student_input import StudentInput
from dmae_mm.weights.formats import translate
from tests.toys.converted import (BLOCKS, KWARGS, assert_features, big_file,
                                  saved, teacher_of, timm_features,
                                  toy_images)
from tests.toys.models import randomize

open_clip = pytest.importorskip('open_clip')

GELU = 'vit_base_patch16_clip_224'
QUICK = 'vit_base_patch16_clip_quickgelu_224'
VISION = dict(image_size=32, patch_size=8, width=32, layers=3, head_width=16)
TEXT = dict(context_length=7, vocab_size=50, width=16, heads=2, layers=1)
NUMBERS = dict(
    input_resolution=torch.tensor(32),
    context_length=torch.tensor(7),
    vocab_size=torch.tensor(50))
OPENAI_MEAN = [255 * value for value in (.48145466, .4578275, .40821073)]
STUDENT = StudentInput((32, 32), (4, 4), 3, [1.] * 3, [2.] * 3)


def make(cls=open_clip.CLIP, quick_gelu=False, **vision):
    model = cls(
        24, dict(VISION, **vision), TEXT, quick_gelu=quick_gelu).eval()
    randomize(model)
    return model


@torch.no_grad()
def own_features(model):
    found = model.visual.forward_intermediates(
        toy_images(),
        indices=list(BLOCKS),
        output_fmt='NLC',
        output_extra_tokens=True,
        intermediates_only=True)
    return [
        torch.cat([prefix, patches], 1)
        for prefix, patches in zip(found['image_intermediates_prefix'],
                                   found['image_intermediates'])
    ]


@pytest.mark.parametrize('cls', [open_clip.CLIP, open_clip.CustomTextCLIP])
@pytest.mark.parametrize('quick_gelu', [False, True])
def test_whole_models(tmp_path, cls, quick_gelu):
    model = make(cls, quick_gelu)
    path = saved(tmp_path, model.state_dict())
    assert_features(
        teacher_of(path, QUICK if quick_gelu else GELU), own_features(model))


def test_a_training_checkpoint_and_a_tower_alone(tmp_path):
    model = make()
    training = dict(
        epoch=3,
        name='run',
        state_dict={
            f'module.{name}': t for name, t in model.state_dict().items()
        })
    for content in (training, model.visual.state_dict()):
        teacher = teacher_of(saved(tmp_path, content), GELU)
        assert_features(teacher, own_features(model))


@pytest.mark.parametrize('vision, kwargs', [
    (dict(ls_init_value=.1), dict(init_values=.1)),
    (dict(no_ln_pre=True, pool_type='avg'), dict(pre_norm=False)),
    (dict(attentional_pool=True, attn_pooler_heads=2), {}),
    (dict(pos_embed_type='sin_cos_2d'), {}),
], ids=['layer scale', 'CLIPA', 'CoCa', 'fixed positions'])  # yapf: disable
def test_variants(tmp_path, vision, kwargs):
    model = make(**vision)
    path = saved(tmp_path, model.state_dict())
    assert_features(
        teacher_of(path, GELU, dict(KWARGS, **kwargs)), own_features(model))


def test_openais_files_need_quick_gelu(tmp_path):
    """Known by the numbers that OpenAI keeps among the weights."""
    model = make(quick_gelu=True)
    path = saved(tmp_path, {**model.state_dict(), **NUMBERS})
    assert_features(teacher_of(path, QUICK), own_features(model))
    with pytest.raises(ValueError, match="OpenAI's CLIP with the activation "
                       "'quick_gelu', the teacher has GELU"):
        teacher_of(path, GELU)


def test_the_wrong_activation_is_not_seen_without_a_description(tmp_path):
    """What model_name says then counts; the page says so."""
    model = make(quick_gelu=True)
    teacher = teacher_of(saved(tmp_path, model.state_dict()), GELU)
    difference = teacher(toy_images())[1] - own_features(model)[1]
    assert difference.abs().max() > .01


def config(folder, images=None, **model):
    vision = dict(VISION, **model.pop('vision_cfg', {}))
    (folder / 'open_clip_config.json').write_text(
        json.dumps(
            dict(
                model_cfg=dict(model, vision_cfg=vision),
                preprocess_cfg=images or {})))


@pytest.mark.parametrize('quick_gelu', [False, True])
def test_open_clips_config_says_what_names_do_not(tmp_path, quick_gelu):
    model = make(quick_gelu=quick_gelu)
    images = dict(mean=[.1, .2, .3], std=[.5, .6, .7])
    config(tmp_path, images, quick_gelu=quick_gelu)
    path = saved(tmp_path, model.state_dict())
    right, wrong = (QUICK, GELU) if quick_gelu else (GELU, QUICK)
    teacher = teacher_of(path, right, student_input=STUDENT)
    assert list(teacher.image_matcher.mean) == [25.5, 51., 76.5]
    assert list(teacher.image_matcher.std) == [127.5, 153., 178.5]
    with pytest.raises(ValueError, match='the activation'):
        teacher_of(path, wrong)
    config(tmp_path, vision_cfg=dict(head_width=8), quick_gelu=quick_gelu)
    with pytest.raises(ValueError, match='heads'):
        teacher_of(path, right)


@pytest.mark.parametrize('text, message', [
    ('[1]', 'no description of a model'),
    ('{"model_cfg": 3}', 'model_cfg=3, which is no object'),
    ('{"preprocess_cfg": {"mean": [0.5], "std": [0.0]}}', 'above zero'),
    ('{"preprocess_cfg": {"mean": "a", "std": "b"}}', 'above zero'),
    ('{"model_cfg": {"vision_cfg": {"head_width": 0}}}', 'above zero'),
    ('{"model_cfg": {"vision_cfg": {"norm_kwargs": {"eps": "x"}}}}',
     'above zero'),
    ('{', 'cannot be read as JSON'),
])
def test_illegal_configs(tmp_path, text, message):
    path = saved(tmp_path, make().state_dict())
    (tmp_path / 'open_clip_config.json').write_text(text)
    with pytest.raises(ValueError, match=message):
        teacher_of(path, GELU)


@pytest.mark.parametrize('name, kwargs, mean', [
    ('vit_base_patch16_clip_224.laion2b', {}, OPENAI_MEAN[0]),
    # By open_clip's list of weights, some of its models have these:
    ('vit_large_patch14_clip_224.laion2b', {}, 127.5),
    ('deit_base_patch16_224.fb_in1k', dict(pre_norm=True), 123.675),
    # But none has mean 0.
    ('vit_base_patch14_reg1_tipsv2.webli',
     dict(pre_norm=True, reg_tokens=0, no_embed_class=False),
     OPENAI_MEAN[0]),
])
def test_whose_mean_and_std(tmp_path, name, kwargs, mean):
    """CLIP's, unless timm describes the name with another of CLIP's."""
    model = make(ls_init_value=.1) if 'tips' in name else make()
    teacher = teacher_of(
        saved(tmp_path, model.state_dict()), name, dict(KWARGS, **kwargs),
        student_input=STUDENT)  # yapf: disable
    assert teacher.image_matcher.mean[0] == pytest.approx(mean, abs=.01)


def test_a_tower_of_timm(tmp_path):
    """SigLIP's is timm's, behind visual.trunk."""
    tower = timm.create_model('vit_base_patch16_siglip_224', **KWARGS).eval()
    randomize(tower)
    weights = {
        f'visual.trunk.{name}': t for name, t in tower.state_dict().items()
    }
    weights['text.token_embedding.weight'] = torch.zeros(2, 2)
    path = saved(tmp_path, weights)
    teacher = teacher_of(
        path, 'vit_base_patch16_siglip_224', student_input=STUDENT)
    assert teacher.image_matcher.mean[0] == 127.5
    teacher = teacher_of(path, 'vit_base_patch16_siglip_224')
    assert_features(teacher, timm_features(tower))
    config(tmp_path, dict(mean=[.2] * 3, std=[.4] * 3),
           vision_cfg=dict(timm_model_name='vit_base_patch16_siglip_224'))
    teacher = teacher_of(
        path, 'vit_base_patch16_siglip_224', student_input=STUDENT)
    assert teacher.image_matcher.mean[0] == 51.


def test_which_model_of_timm_it_is():
    """Of a file that does not tell the activation, there are two."""
    with torch.device('meta'):
        big = open_clip.CLIP(
            24, dict(VISION, width=768, layers=12, patch_size=16,
                     image_size=64), TEXT)  # yapf: disable
    found = translate(big_file(big, **NUMBERS)).format
    assert found.model_name == QUICK
    assert found.model_kwargs == dict(img_size=64)
    assert translate(big_file(big)).format.model_name is None


def test_an_archive_of_torchscript_is_refused(tmp_path):
    """OpenAI's files are such: a program, which nobody runs here."""
    path = str(tmp_path / 'ViT-B-32.pt')
    torch.jit.script(torch.nn.Sequential(torch.nn.Linear(3, 3))).save(path)
    with pytest.raises(ValueError, match='archive of TorchScript.*Nothing of '
                       r'it was executed.*torch.jit.load\(FILE.*state_dict'):
        teacher_of(path, QUICK)


def test_foreign_parts_of_a_tower_are_named(tmp_path):
    model = make(qk_norm=True, block_type='custom')
    with pytest.raises(ValueError, match='tensors are unknown: blocks.0.attn'):
        teacher_of(saved(tmp_path, model.state_dict()), GELU)
