"""A run starts from the checkpoint of its own backbone, or does not start."""
from types import SimpleNamespace

import pytest
import torch
from mmengine.runner import BaseLoop
from mmpretrain.registry import HOOKS, MODELS

from dmae_mm.engine.hooks import PretrainedBackboneHook
from tests.conftest import STUDENT, TEACHER, TOY_MODEL
from tests.models.classifiers import classifier


class Loop(BaseLoop):

    def __init__(self):
        pass

    def run(self):
        pass


def before_run(model, loop=True):
    """What the Runner does before it initialises weights."""
    hook = HOOKS.build(dict(type='PretrainedBackboneHook'))
    assert isinstance(hook, PretrainedBackboneHook)
    hook.before_run(
        SimpleNamespace(model=model, _train_loop=Loop() if loop else {}))


def build(path, prefix='backbone.', arch=STUDENT, as_list=False, **backbone):
    cfg = dict(type='Pretrained', checkpoint=str(path), prefix=prefix)
    backbone['init_cfg'] = [cfg] if as_list else cfg
    return MODELS.build(classifier(arch, backbone=backbone))


@pytest.fixture
def pretrained(tmp_path):
    """A checkpoint of DMAE, and its tensors."""
    model = MODELS.build(dict(TOY_MODEL))
    state = model.state_dict()
    torch.save(dict(state_dict=state, meta={}), tmp_path / 'dmae.pth')
    return tmp_path / 'dmae.pth', state


@pytest.mark.parametrize('options', [
    dict(),
    dict(prefix='backbone'),
    dict(out_type='cls_token', final_norm=True),
    dict(img_size=64),  # the host resamples the positions
])
def test_its_own_is_accepted_and_loaded(pretrained, options):
    path, state = pretrained
    model = build(path, **options)
    before_run(model)
    model.init_weights()
    for name, tensor in model.backbone.state_dict().items():
        if not name.startswith('ln2.') and (name != 'pos_embed' or
                                            'img_size' not in options):
            assert torch.equal(tensor, state[f'backbone.{name}']), name


def test_a_bare_backbone(pretrained, tmp_path):
    _, state = pretrained
    bare = {
        name[len('backbone.'):]: tensor
        for name, tensor in state.items() if name.startswith('backbone.')
    }
    torch.save(bare, tmp_path / 'bare.pth')
    before_run(build(tmp_path / 'bare.pth', prefix=None))
    with pytest.raises(ValueError, match="prefix 'backbone.', .*is missing"):
        before_run(build(tmp_path / 'bare.pth'))


@pytest.mark.parametrize('options, message', [
    (dict(arch=TEACHER), r'4 blocks instead of 6; cls_token has shape '
     r'\(1, 1, 24\) instead of \(1, 1, 32\); pos_embed has shape.*more'),
    (dict(arch=dict(STUDENT, num_layers=3)), '4 blocks instead of 3'),
    (dict(arch=dict(STUDENT, num_layers=5)),
     'layers.4.ln1.weight is missing'),
    (dict(arch=dict(STUDENT, feedforward_channels=48)),
     r'layers.0.ffn.layers.0.0.weight has shape \(96, 24\) instead of'),
    (dict(patch_size=16), r'patch_embed.projection.weight has shape'),
    (dict(prefix='encoder.'), "prefix 'encoder.'.*is missing"),
    (dict(type='ResNet'), 'conv1.weight is missing.*begins with backbone'),
    (dict(layer_scale_init_value=.1), 'layers.0.attn.gamma1.weight is miss'),
])
def test_another_is_refused(pretrained, options, message):
    path, _ = pretrained
    if options.get('type') == 'ResNet':
        init_cfg = dict(
            type='Pretrained', checkpoint=str(path), prefix='backbone.')
        model = MODELS.build(
            dict(
                type='ImageClassifier',
                backbone=dict(type='ResNet', depth=18, init_cfg=init_cfg)))
    else:
        model = build(path, **options)
    with pytest.raises(
            ValueError,
            match=f'(?s)model.backbone.init_cfg.checkpoint: .*{message}'):
        before_run(model)


def test_the_norm_behind_pooling_is_new_only_there(pretrained):
    """In other places, a missing norm is a missing norm."""
    path, state = pretrained
    del state['backbone.ln1.weight']
    torch.save(dict(state_dict=state), path)
    before_run(build(path))
    with pytest.raises(ValueError, match='ln1.weight is missing'):
        before_run(build(path, out_type='cls_token', final_norm=True))


@pytest.mark.parametrize('key', ['model', 'state_dict_ema'])
def test_weights_where_the_host_does_not_look(pretrained, key):
    path, state = pretrained
    torch.save({key: state}, path)
    with pytest.raises(ValueError, match=f"under '{key}', where MMEngine"):
        before_run(build(path))


def test_values_that_are_not_finite(pretrained):
    path, state = pretrained
    state['backbone.cls_token'].fill_(torch.nan)
    torch.save(dict(state_dict=state), path)
    with pytest.raises(ValueError, match='cls_token has values.*not finite'):
        before_run(build(path))


def test_a_file_that_is_not_there():
    with pytest.raises(
            FileNotFoundError,
            match='model.backbone.init_cfg.checkpoint: .*PATH_OF'):
        before_run(build('PATH_OF_THE_PRETRAINED_CHECKPOINT'))


def test_a_list_would_leave_positions_unloaded(pretrained):
    """A quirk of the host, shown, and refused."""
    path, state = pretrained
    model = build(path, as_list=True)
    with pytest.raises(ValueError, match='position embedding.*without list'):
        before_run(model)
    model.init_weights()
    assert not torch.equal(model.backbone.pos_embed,
                           state['backbone.pos_embed'])


def test_testing_and_other_models_are_left_alone():
    before_run(build('PATH_OF_THE_PRETRAINED_CHECKPOINT'), loop=False)
    before_run(MODELS.build(dict(TOY_MODEL)))
    before_run(MODELS.build(classifier()))
