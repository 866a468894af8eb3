"""A teacher is filled from its file exactly, or not at all and says why.

Each file goes the way of a training run: through ``DMAE.init_weights()``,
which the Runner calls once the model is built.
"""
import copy
import os

import pytest
import safetensors.torch
import torch
from mmengine.logging import MMLogger
from mmpretrain.registry import MODELS

from dmae_mm.models.student_input import StudentInput
from dmae_mm.weights import mae_to_mmpretrain, write_tensor_file
from dmae_mm.weights.origin import IMAGENET_MEAN, IMAGENET_STD, Origin

from tests.toys.checkpoints import encoder_only, golden_weights
from tests.toys.models import TEACHER

FULL = golden_weights('teacher')  # 6 blocks, of which the teacher keeps 4
ENCODER = encoder_only(FULL)
NORM1 = 'blocks.1.norm1.weight'


def save(folder, content, name='teacher.pth'):
    path = str(folder / name)
    if name.endswith('.safetensors'):
        safetensors.torch.save_file(content, path)
    else:
        torch.save(content, path)
    return path


def build(cfg, checkpoint, **backbone):
    cfg['teacher'].update(checkpoint=checkpoint, allow_random=False)
    cfg['teacher']['backbone'].update(backbone)
    return MODELS.build(cfg)


def wanted_weights():
    """What the truncated teacher must hold, under its own names."""
    return {
        name[len('backbone.'):]: tensor
        for name, tensor in mae_to_mmpretrain(ENCODER).items()
        if not name.startswith(('backbone.layers.4.', 'backbone.layers.5.',
                                'backbone.ln1.'))
    }


def assert_filled(model, wanted):
    model.init_weights()
    state = model.teacher.network.state_dict()
    assert state.keys() == wanted.keys()
    for name, tensor in state.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, wanted[name].float()), name


@pytest.mark.parametrize('weights', [ENCODER, FULL], ids=['encoder', 'full'])
@pytest.mark.parametrize('name', ['mae.pth', 'mae.safetensors'])
def test_files_of_mae(tmp_path, toy_model, weights, name):
    content = weights if 'safe' in name else dict(model=weights, epoch=799)
    assert_filled(
        build(toy_model, save(tmp_path, content, name)), wanted_weights())


def test_fine_tuned_mae(tmp_path, toy_model):
    tuned = {
        name.replace('norm', 'fc_norm')
        if name in ('norm.weight', 'norm.bias') else name: tensor
        for name, tensor in ENCODER.items()
    }
    tuned.update({
        'head.weight': torch.rand(10, 32),
        'head.bias': torch.rand(10)
    })
    path = save(tmp_path, dict(model=tuned))
    assert_filled(build(toy_model, path), wanted_weights())


@pytest.mark.parametrize('prefix', ['', 'backbone.', 'module.backbone.'])
def test_backbone_alone(tmp_path, toy_model, prefix):
    weights = {
        name.replace('backbone.', prefix, 1): tensor
        for name, tensor in mae_to_mmpretrain(ENCODER).items()
    }
    path = save(tmp_path, dict(state_dict=weights, meta={}))
    assert_filled(build(toy_model, path), wanted_weights())


def pretrained(cfg, **options):
    """State dict of a model whose student has the teacher's architecture."""
    cfg['backbone']['arch'] = TEACHER
    cfg['neck']['embed_dim'] = TEACHER['embed_dims']
    cfg.update(options)
    model = MODELS.build(cfg)
    model.init_weights()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=.1)
    return model.state_dict()


@pytest.mark.parametrize('run', ['MAE', 'DMAE without teacher', 'DMAE'])
def test_checkpoint_of_a_run_teaches_the_next(tmp_path, toy_model, run):
    cfg = copy.deepcopy(toy_model)
    if run == 'MAE':
        parts = {part: cfg[part] for part in ('backbone', 'neck', 'head')}
        state = pretrained(dict(type='MAE', **parts))
    elif run == 'DMAE':
        state = pretrained(cfg, aligned_layers=[(4, 3)])
        assert any(name.startswith('distill_neck.') for name in state)
    else:
        state = pretrained(cfg, teacher=None, aligned_layers=[])
    path = save(tmp_path, dict(state_dict=state, meta=dict(epoch=1)))
    wanted = {name: state[f'backbone.{name}'] for name in wanted_weights()}
    assert_filled(build(toy_model, path), wanted)


def test_vision_transformer(tmp_path, toy_model):
    path = save(tmp_path, dict(model=ENCODER))
    model = build(toy_model, path, type='VisionTransformer')
    assert_filled(model, wanted_weights())


@pytest.mark.parametrize('dtype',
                         [torch.float16, torch.bfloat16, torch.float64])
def test_other_precision(tmp_path, toy_model, dtype):
    cast = {name: tensor.to(dtype) for name, tensor in ENCODER.items()}
    wanted = {
        name: tensor.to(dtype)
        for name, tensor in wanted_weights().items()
    }
    assert_filled(build(toy_model, save(tmp_path, cast)), wanted)


def test_read_once_and_no_earlier_than_needed(tmp_path, toy_model):
    path = str(tmp_path / 'teacher.pth')
    model = build(toy_model, path)  # there is no such file yet
    assert not model.teacher.is_loaded
    save(tmp_path, ENCODER)
    model.init_weights()
    assert model.teacher.is_loaded
    os.remove(path)
    assert_filled(model, wanted_weights())


def change(name, value):
    """The encoder's weights with one tensor changed or (None) left out."""
    weights = dict(ENCODER)
    del weights[name]
    if value is not None:
        weights[name] = value
    return weights


def depth(blocks):
    """The encoder's weights, as a transformer of another depth has them."""
    weights = {
        name: tensor
        for name, tensor in ENCODER.items()
        if not name.startswith('blocks.') or int(name.split('.')[1]) < blocks
    }
    for block in range(6, blocks):
        weights.update({
            name.replace('blocks.0.', f'blocks.{block}.'): tensor
            for name, tensor in ENCODER.items()
            if name.startswith('blocks.0.')
        })
    return weights


def wider():
    """The encoder's weights with 48 instead of 32 channels."""
    return {
        name: torch.zeros([size // 32 * 48 if size % 32 == 0 else size
                           for size in tensor.shape])
        for name, tensor in ENCODER.items()
    }


def nan(tensor, value):
    tensor = tensor.clone()
    tensor.view(-1)[-1] = value
    return tensor


ILLEGAL = {
    'wider': (wider(), 'cls_token has shape (1, 1, 48) instead of (1, 1, 32)'),
    'deeper': (depth(8), 'the file has 8 blocks'),
    'shallower': (depth(2), 'the file has 2 blocks'),
    'shallower than it was, but with all that is kept':
    (depth(4), 'the file has 4 blocks'),
    'other image size': (change('pos_embed', torch.zeros(1, 50, 32)),
                         'pos_embed has shape (1, 50, 32) instead of'),
    'decoder only':
    ({k: v
      for k, v in FULL.items() if k.startswith(('decoder_', 'mask_token'))},
     'there is no encoder in it, but only a decoder'),
    'something else': (dict(conv1=torch.ones(1)),
                       "1 other tensors, the first named 'conv1'"),
    'one missing': (change(NORM1, None), 'layers.1.ln1.weight is missing'),
    'the patch embedding missing':
    (change('patch_embed.proj.weight', None),
     'patch_embed.projection.weight is missing'),
    'one of another shape':
    (change(NORM1, torch.ones(16)),
     'layers.1.ln1.weight has shape (16,) instead of (32,)'),
    'one transposed':
    (change('blocks.0.mlp.fc1.weight', torch.zeros(32, 128)),
     'layers.0.ffn.layers.0.0.weight has shape (32, 128) instead of'),
    'NaN': (change(NORM1, nan(ENCODER[NORM1], float('nan'))),
            'layers.1.ln1.weight has values that are not finite'),
    'infinity': (change('pos_embed', nan(ENCODER['pos_embed'],
                                         float('-inf'))),
                 'pos_embed has values that are not finite'),
    'too large for float32':
    (change(NORM1, ENCODER[NORM1].double() + 1e300),
     'layers.1.ln1.weight has values that are not finite'),
    'integers': (change(NORM1, torch.ones(32, dtype=torch.int8)),
                 'layers.1.ln1.weight has values of type torch.int8'),
    'unknown in a block': (dict(ENCODER, **{'blocks.0.ls1.gamma':
                                            torch.ones(32)}),
                           'layers.0.attn.gamma1.weight is unknown'),
    'unknown token': (dict(ENCODER, dist_token=torch.ones(1, 1, 32)),
                      'neither to MAE nor to DMAE: dist_token'),
}


def assert_refused(model, error_type, *parts):
    """The error says what is wrong, and no weight of the model changes."""
    before = {k: v.clone() for k, v in model.state_dict().items()}
    teacher = {k: v.clone() for k, v in model.teacher.state_dict().items()}
    for _ in range(2):  # a second attempt is not taken for loaded
        with pytest.raises(error_type) as error:
            model.init_weights()
        for part in (model.teacher.checkpoint, *parts):
            assert part in str(error.value)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    for name, tensor in model.teacher.state_dict().items():
        assert torch.equal(tensor, teacher[name])


@pytest.mark.parametrize('kind', ILLEGAL)
def test_illegal_weights(tmp_path, toy_model, kind):
    weights, message = ILLEGAL[kind]
    path = save(tmp_path, dict(model=weights))
    assert_refused(build(toy_model, path), ValueError, message)


@pytest.mark.parametrize('kind', [
    kind for kind, (_, message) in ILLEGAL.items()
    if kind != 'something else' and 'neither to MAE' not in message
])
def test_illegal_weights_of_mmpretrain(tmp_path, toy_model, kind):
    weights, message = ILLEGAL[kind]
    path = save(tmp_path, dict(state_dict=mae_to_mmpretrain(weights)))
    assert_refused(build(toy_model, path), ValueError, message)


@pytest.mark.parametrize('name', [
    'backbone.layers.0.attn.gamma1.weight', 'backbone.layers.6.ln1.weight',
    'backbone.dist_token', 'backbone.pre_norm.weight'
])
def test_unknown_tensor_in_a_backbone(tmp_path, toy_model, name):
    weights = dict(mae_to_mmpretrain(ENCODER))
    weights[name] = torch.ones(32)
    assert_refused(
        build(toy_model, save(tmp_path, dict(state_dict=weights))),
        ValueError, f'{name[len("backbone."):]} is unknown',
        'Give a checkpoint of this architecture, or the architecture of this '
        'checkpoint in teacher.backbone.')


def test_file_with_another_architecture_names_few_problems(
        tmp_path, toy_model):
    model = build(toy_model, save(tmp_path, wider()))
    assert_refused(model, ValueError, 'a MAEViT of 6 blocks, 32 wide',
                   ' more. ')
    with pytest.raises(ValueError) as error:
        model.init_weights()
    assert len(str(error.value)) < 1000


def test_missing_file(tmp_path, toy_model):
    path = str(tmp_path / 'none.pth')
    assert_refused(
        build(toy_model, path), FileNotFoundError, 'does not exist',
        'Give the path of a file or an http(s) URL')


def test_truncated_file(tmp_path, toy_model):
    path = save(tmp_path, dict(model=FULL))
    with open(path, 'rb+') as file:
        file.truncate(os.path.getsize(path) // 2)
    assert_refused(
        build(toy_model, path), ValueError, 'cannot be read',
        'compare its size and checksum with the origin')


def test_hostile_file(tmp_path, toy_model):
    marker = tmp_path / 'code-from-the-file-ran'

    class Hostile:

        def __reduce__(self):
            return os.system, (f'touch {marker}', )

    path = save(tmp_path, dict(model=ENCODER, args=Hostile()))
    assert_refused(build(toy_model, path), ValueError, 'system', 'is refused')
    assert not marker.exists()


def test_error_on_first_use_is_the_same(tmp_path, toy_model, images):
    """Where nobody has called init_weights, as after get_model."""
    path = save(tmp_path, change(NORM1, None))
    model = build(toy_model, path)
    with pytest.raises(ValueError, match='layers.1.ln1.weight is missing'):
        model.loss(images, None)


class TestNormalisation:
    """Of a student with ImageNet's mean and std, unless it is given or known
    that the teacher has others."""

    STUDENT = StudentInput((32, 32), (4, 4), 3, IMAGENET_MEAN, IMAGENET_STD,
                           True)
    OTHER = dict(mean=[127.5] * 3, std=[127.5] * 3)

    def build(self, path, **options):
        return MODELS.build(
            dict(
                type='MMPretrainTeacher',
                backbone=dict(
                    type='MAEViT', arch=TEACHER, img_size=32, patch_size=8),
                aligned_blocks=(3, ),
                student_input=self.STUDENT,
                checkpoint=path,
                **options))

    def images_of(self, path, **options):
        """What the teacher sees of pixels of 255."""
        teacher = self.build(path, **options)
        teacher.init_weights()
        white = (255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(
            IMAGENET_STD)
        return teacher.image_matcher(
            white.view(1, 3, 1, 1).expand(1, 3, 32, 32))

    @pytest.mark.parametrize('sign', ['head.weight', 'fc_norm.weight'])
    def test_another_origin_needs_it(self, tmp_path, sign):
        """Of timm, whose supervised models have 0.5 for both."""
        path = save(tmp_path, dict(ENCODER, **{sign: torch.zeros(32)}))
        with pytest.raises(ValueError) as error:
            self.build(path).init_weights()
        for part in (sign, 'mean=[123.675, 116.28, 103.53]', 'mean=[...]',
                     'pretrained_cfg', 'TimmTeacher'):
            assert part in str(error.value)
        ones = self.images_of(path, **self.OTHER)
        torch.testing.assert_close(ones, torch.ones(1, 3, 32, 32))

    @pytest.mark.parametrize('name', ['a.pth', 'a.safetensors'])
    def test_a_file_says_it(self, tmp_path, name):
        """As exported files do; a timm file, too, is then known."""
        path = str(tmp_path / name)
        weights = dict(ENCODER, **{'head.weight': torch.zeros(5, 32)})
        said = Origin(mean=(127.5, ) * 3, std=(127.5, ) * 3).as_meta()
        write_tensor_file(path, weights, said)
        torch.testing.assert_close(
            self.images_of(path), torch.ones(1, 3, 32, 32))

    def test_a_run_says_it(self, tmp_path):
        """By the config that MMEngine leaves in a checkpoint."""
        text = f'data_preprocessor = {dict(self.OTHER, to_rgb=True)!r}'
        path = save(
            tmp_path,
            dict(state_dict=mae_to_mmpretrain(ENCODER), meta=dict(cfg=text)))
        torch.testing.assert_close(
            self.images_of(path), torch.ones(1, 3, 32, 32))
        before, after = self.build(path), self.build(path)
        after.init_weights()
        assert before.image_matcher.scale is None
        assert after.image_matcher.scale is not None
        # What is given counts.
        given = dict(mean=[0.] * 3, std=[255.] * 3)
        torch.testing.assert_close(
            self.images_of(path, **given), torch.ones(1, 3, 32, 32))

    def test_blue_first(self, tmp_path):
        text = f'data_preprocessor = {dict(self.OTHER)!r}'
        path = save(
            tmp_path,
            dict(state_dict=mae_to_mmpretrain(ENCODER), meta=dict(cfg=text)))
        with pytest.raises(ValueError, match=r'channels=\[2, 1, 0\]'):
            self.build(path).init_weights()
        self.build(path, channels=[2, 1, 0]).init_weights()

    @pytest.mark.parametrize('weights', [ENCODER, FULL])
    def test_mae_goes_without(self, tmp_path, weights, monkeypatch):
        lines = []
        monkeypatch.setattr(MMLogger.get_current_instance(), 'handlers', [])
        monkeypatch.setattr(
            MMLogger, 'callHandlers',
            lambda self, record: lines.append(record.getMessage()))
        assert (self.images_of(save(tmp_path, weights)) > 2).all()
        who = ("MAE's pre-training" if weights is FULL else
               'the file does not say its own')
        assert any('mean=[123.675, 116.28, 103.53]' in line and who in line
                   for line in lines)


@pytest.mark.parametrize('meta, size, message', [
    ({}, (16, 64), '4 x 4 patches .a square, since.* taken for 2 x 8'),
    (dict(trained_as=dict(img_size=[16, 64])), (32, 32),
     '2 x 8 patches .as its metadata.*for 4 x 4.*teacher.backbone'),
    (dict(trained_as=dict(img_size=[16, 64])), (16, 64), None),
    (dict(trained_as=dict(num_heads=4)), (32, 32), 'num_heads=4.*num_heads=2'),
])
def test_equal_shapes_of_other_meaning(tmp_path, meta, size, message):
    path = save(
        tmp_path, dict(state_dict=mae_to_mmpretrain(ENCODER), meta=meta))
    teacher = MODELS.build(
        dict(
            type='MMPretrainTeacher',
            backbone=dict(
                type='VisionTransformer', arch=TEACHER, img_size=size,
                patch_size=8),
            aligned_blocks=(3, ),
            checkpoint=path))
    if message is None:
        teacher.init_weights()
        return
    with pytest.raises(ValueError, match=message):
        teacher.init_weights()


def test_registers_are_of_no_model_of_mmpretrain(tmp_path, toy_model):
    path = save(tmp_path, dict(ENCODER, reg_token=torch.zeros(1, 4, 32)))
    with pytest.raises(ValueError, match='TimmTeacher.*_reg4_'):
        build(toy_model, path).init_weights()
