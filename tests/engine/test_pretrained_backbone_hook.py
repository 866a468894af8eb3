"""A run starts from the checkpoint of its own backbone, or does not start."""
import importlib.util
from types import SimpleNamespace

import pytest
import timm
import torch
from mmengine.config import ConfigDict
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope
from mmengine.runner import BaseLoop
from mmpretrain.registry import MODELS

from dmae_mm.engine.hooks import PretrainedBackboneHook
from dmae_mm.weights import export_checkpoint
from tests.toys.hosted_students import write_student
from tests.toys.models import (STUDENT, TEACHER, TOY_MODEL, classifier,
                               timm_student)


class Loop(BaseLoop):

    def __init__(self):
        pass

    def run(self):
        pass


def before_run(model, loop=True, hook='PretrainedBackboneHook'):
    """What the Runner does before it initialises weights."""
    hook = ROOT_HOOKS.build(dict(type=hook))
    assert isinstance(hook, PretrainedBackboneHook)
    hook.before_run(
        SimpleNamespace(model=model, _train_loop=Loop() if loop else {}))


def build(path, prefix='backbone.', arch=STUDENT, as_list=False, **backbone):
    cfg = dict(type='Pretrained', checkpoint=str(path), prefix=prefix)
    backbone['init_cfg'] = [cfg] if as_list else cfg
    return MODELS.build(classifier(arch, backbone=backbone))


@pytest.fixture(autouse=True)
def in_mmpretrain():
    """The scope of a config of mmpretrain."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


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
    dict(type='WindowedViT'),
    dict(type='WindowedViT', use_rel_pos=True),
])
def test_its_own_is_accepted_and_loaded(pretrained, options):
    path, state = pretrained
    if 'type' in options:  # its options are fewer
        init_cfg = dict(
            type='Pretrained', checkpoint=str(path), prefix='backbone.')
        model = MODELS.build(
            dict(
                type='ImageClassifier',
                backbone=dict(
                    options,
                    arch=STUDENT,
                    img_size=64,
                    patch_size=8,
                    init_cfg=init_cfg)))
    else:
        model = build(path, **options)
    before_run(model)
    model.init_weights()
    resized = 'img_size' in options or 'type' in options
    for name, tensor in model.backbone.state_dict().items():
        if 'rel_pos' in name:
            assert not tensor.any()
        elif not name.startswith('ln2.') and (name != 'pos_embed'
                                              or not resized):
            assert torch.equal(tensor, state[f'backbone.{name}']), name


def test_a_student_of_timm_reads_its_file_itself(tmp_path):
    """With timm's names, which the hook would not find."""
    cfg = timm_student()
    model = timm.create_model(
        cfg['model_name'], img_size=32, **cfg['model_kwargs'])
    torch.save(model.state_dict(), tmp_path / 'timm.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'timm.pth'))
    model = MODELS.build(
        dict(TOY_MODEL, backbone=dict(cfg, init_cfg=init_cfg)))
    before_run(model)
    model.init_weights()


def test_timm_backbone_resamples_nothing(tmp_path):
    """So positions of another grid would stay as they were drawn."""
    student = timm_student()
    state = MODELS.build(dict(TOY_MODEL, backbone=student)).state_dict()
    torch.save(dict(state_dict=state, meta={}), tmp_path / 'dmae.pth')
    for size in (32, 64):
        cfg = dict(
            type='TIMMBackbone', model_name=student['model_name'],
            img_size=size, **student['model_kwargs'],
            init_cfg=dict(
                type='Pretrained', checkpoint=str(tmp_path / 'dmae.pth'),
                prefix='backbone.'))
        model = MODELS.build(dict(type='ImageClassifier', backbone=cfg))
        if size == 32:
            before_run(model)
            continue
        with pytest.raises(ValueError, match=r'timm_model.pos_embed has shape '
                           r'\(1, 17, 24\) instead of \(1, 65, 24\)'):
            before_run(model)


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


def test_what_would_be_lost(pretrained):
    path, state = pretrained
    state['backbone.pre_norm.weight'] = torch.ones(24)
    torch.save(dict(state_dict=state), path)
    with pytest.raises(ValueError, match='pre_norm.weight has no place in it'):
        before_run(build(path))


def test_the_checkpoint_of_a_whole_model(pretrained):
    path, _ = pretrained
    before_run(MODELS.build(classifier(STUDENT, pretrained=str(path))))
    with pytest.raises(ValueError, match=r'(?s)^model.init_cfg.checkpoint: .*'
                       "prefix 'backbone.', .* 4 blocks instead of 6"):
        before_run(MODELS.build(classifier(pretrained=str(path))))


def in_mmseg(path, **options):
    """A segmentor with mmseg's own ViT, which ignores a prefix."""
    from tests.toys import needs_mmseg  # noqa: F401
    backbone = dict(
        type='MAE',
        img_size=(32, 32),
        patch_size=8,
        embed_dims=24,
        num_layers=4,
        num_heads=2,
        init_values=1.0)
    head = dict(type='FCNHead', in_channels=24, channels=8, num_classes=3)
    init_cfg = options.pop('init_cfg', None)
    if init_cfg:
        backbone['init_cfg'] = init_cfg
    return ConfigDict(
        type='EncoderDecoder',
        backbone=dict(backbone, **options),
        decode_head=head,
        pretrained=None if init_cfg else str(path))


def test_in_mmseg(pretrained, tmp_path):
    path, state = pretrained
    bare = {
        name[len('backbone.'):]: tensor
        for name, tensor in state.items() if name.startswith('backbone.')
    }
    torch.save(bare, tmp_path / 'bare.pth')
    hook = 'mmpretrain.PretrainedBackboneHook'
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = ROOT_MODELS.build(in_mmseg(tmp_path / 'bare.pth'))
        before_run(model, hook=hook)
        model.init_weights()
        assert torch.equal(model.backbone.cls_token, bare['cls_token'])
        init_cfg = dict(
            type='Pretrained', checkpoint=str(path), prefix='backbone.')
        for options in (dict(), dict(init_cfg=init_cfg)):
            with pytest.raises(
                    ValueError,
                    match="Under the prefix '', .* mmseg's MAE takes names "
                    'without prefix, whatever.*--to mmseg'):
                before_run(
                    ROOT_MODELS.build(in_mmseg(path, **options)), hook=hook)
        # Its layer scale of 0.1 is another network.
        model = in_mmseg(tmp_path / 'bare.pth', init_values=.1)
        with pytest.raises(ValueError, match='layers.0.gamma_1 is missing'):
            before_run(ROOT_MODELS.build(model), hook=hook)


@pytest.mark.skipif(
    importlib.util.find_spec('mmcv._ext') is None,
    reason='mmdet needs mmcv with compiled ops')
def test_in_mmdet(pretrained):
    path, state = pretrained

    def detector(prefix):
        init_cfg = dict(
            type='Pretrained', checkpoint=str(path), prefix=prefix)
        return ROOT_MODELS.build(
            dict(
                type='FCOS',
                backbone=dict(
                    type='mmpretrain.WindowedViT',
                    arch=STUDENT,
                    img_size=64,
                    patch_size=8,
                    init_cfg=init_cfg),
                neck=dict(
                    type='ChannelMapper', in_channels=[24], out_channels=32),
                bbox_head=dict(
                    type='FCOSHead',
                    num_classes=3,
                    in_channels=32,
                    feat_channels=32)))

    hook = 'mmpretrain.PretrainedBackboneHook'
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = detector('backbone.')
        before_run(model, hook=hook)
        model.init_weights()
        name = 'layers.3.attn.qkv.weight'
        assert torch.equal(model.backbone.state_dict()[name],
                           state[f'backbone.{name}'])
        with pytest.raises(ValueError, match="fit under the prefix 'backbone"):
            before_run(detector('encoder.'), hook=hook)


class TestAsManyPatchesOfAnotherGrid:
    """4 x 4 patches, in a backbone of 2 x 8."""

    OBLONG = dict(img_size=(16, 64))

    def test_by_init_cfg(self, pretrained, tmp_path):
        path, state = pretrained
        with pytest.raises(ValueError) as error:
            before_run(build(path, **self.OBLONG))
        for part in ('4 x 4', '2 x 8', 'export.py', '--img-size 16 64'):
            assert part in str(error.value)
        # The cure works.
        config, dst = tmp_path / 'config.py', str(tmp_path / 'oblong.pth')
        config.write_text(f'model = {TOY_MODEL!r}')
        export_checkpoint(str(config), str(path), dst, 'mmpretrain',
                          img_size=(16, 64))
        model = build(dst, **self.OBLONG)
        before_run(model)
        model.init_weights()
        positions = state['backbone.pos_embed']
        wanted = torch.nn.functional.interpolate(
            positions[0, 1:].T.reshape(1, 24, 4, 4), (2, 8), mode='bicubic',
            align_corners=False).flatten(2).transpose(1, 2)
        torch.testing.assert_close(model.backbone.pos_embed[:, 1:], wanted)

    def test_by_load_from_and_resume(self, pretrained):
        path, state = pretrained
        hook = PretrainedBackboneHook()
        runner = SimpleNamespace(
            model=build(path, **self.OBLONG), _load_from='dmae.pth')
        with pytest.raises(ValueError, match='^dmae.pth is not.*4 x 4.*2 x 8'):
            hook.after_load_checkpoint(runner, dict(state_dict=state))
        text = "model = dict(backbone=dict(img_size=(16, 64), patch_size=8))"
        hook.after_load_checkpoint(
            runner, dict(state_dict=state, meta=dict(cfg=text)))
        runner.model = build(path)
        hook.after_load_checkpoint(runner, dict(state_dict=state))
        with pytest.raises(ValueError, match='2 x 8 patches .as the config'):
            hook.after_load_checkpoint(
                runner, dict(state_dict=state, meta=dict(cfg=text)))

    def test_another_number_of_heads(self, pretrained):
        path, state = pretrained
        meta = dict(trained_as=dict(num_heads=3))
        torch.save(dict(state_dict=state, meta=meta), path)
        with pytest.raises(ValueError, match='num_heads=3.*num_heads=2'):
            before_run(build(path))


def test_a_resnet_of_the_other_style_stops_the_run(tmp_path):
    """Names and shapes are equal; what stops a run is the config in it."""
    narrow = dict(
        type='ResNet', depth=50, base_channels=8, stem_channels=8,
        norm_cfg=dict(type='BN'))
    path = tmp_path / 'epoch_100.pth'
    write_student(path, dict(narrow, style='caffe'))
    init_cfg = dict(type='Pretrained', checkpoint=str(path),
                    prefix='backbone.')

    def model(**options):
        return SimpleNamespace(backbone=MODELS.build(
            dict(narrow, init_cfg=init_cfg, **options)))

    before_run(model(style='caffe'))
    with pytest.raises(ValueError, match="The config in it says style='caffe'"
                       ", but the backbone has style='pytorch'"):
        before_run(model())
