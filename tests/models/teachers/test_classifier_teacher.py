"""A fine-tuned classifier teaches exactly what the host would predict."""
import copy

import pytest
import torch
import torch.nn.functional as F
from mmpretrain.registry import MODELS

from dmae_mm.models.student_input import StudentInput
from tests.toys.checkpoints import encoder_only, golden_weights
from tests.toys.models import STUDENT, TEACHER
from tests.toys.models import RESNET, classifier, randomize, saved, student

HIVIT = dict(
    type='HiViT',
    arch=dict(embed_dims=32, depths=[1, 1, 8], num_heads=2),
    out_indices=[7],
    img_size=32,
    patch_size=8,
    inner_patches=4)
VITS = {
    'average': classifier(),
    'CLS': classifier(
        backbone=dict(out_type='cls_token', final_norm=True),
        head=dict(type='VisionTransformerClsHead', hidden_dim=16)),
    'distilled': classifier(
        backbone=dict(
            type='DistilledVisionTransformer',
            out_type='cls_token',
            final_norm=True),
        head=dict(type='DeiTClsHead')),
    'DeiT III': classifier(
        backbone=dict(
            type='DeiT3', out_type='cls_token', final_norm=True)),
    'BEiT': classifier(backbone=dict(type='BEiTViT')),
    'EVA-02': classifier(backbone=dict(type='ViTEVA02')),
    'HiViT': dict(
        type='ImageClassifier',
        backbone=HIVIT,
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=5, in_channels=32)),
}
SWIN = dict(
    type='ImageClassifier',
    backbone=dict(
        type='SwinTransformer',
        arch=dict(embed_dims=8, depths=[1, 1], num_heads=[1, 2]),
        img_size=56,
        window_size=7,
        out_indices=(1, )),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=5, in_channels=16))
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
ANY_SIZE = StudentInput(None, None, 3)


def build(model, **options):
    options.setdefault('allow_random', 'checkpoint' not in options)
    return MODELS.build(
        dict(type='ClassifierTeacher', model=copy.deepcopy(model), **options))


@pytest.mark.parametrize('name', VITS)
def test_logits_and_features_are_the_hosts(name, tmp_path):
    host = saved(tmp_path / 'tuned.pth', VITS[name])
    teacher = build(
        VITS[name],
        checkpoint=str(tmp_path / 'tuned.pth'),
        aligned_blocks=[-1, 0.5],
        student_input=StudentInput((32, 32), (4, 4), 3))
    blocks = getattr(host.backbone, 'layers', None)
    if blocks is None:
        blocks = host.backbone.blocks[-8:]
    last = len(blocks) - 1
    outputs = {}
    for index in (last, len(blocks) // 2 - 1):
        blocks[index].register_forward_hook(
            lambda m, args, output, index=index: outputs.update(
                {index: output}))
    with torch.no_grad():
        wanted = host(IMAGES)
    logits, features = teacher(IMAGES)
    assert torch.equal(logits, wanted) and logits.std() > .01
    assert len(features) == 2
    assert torch.equal(features[0], outputs[last])
    assert torch.equal(features[1], outputs[len(blocks) // 2 - 1])
    assert teacher.aligned_blocks == (last, len(blocks) // 2 - 1)
    assert features[0].shape == (3, 16 + teacher.num_prefix_tokens, 32)


@pytest.mark.parametrize('model, size', [(RESNET, 32), (SWIN, 56)])
def test_logits_of_other_backbones(model, size, tmp_path):
    """Normalised by running statistics; windows with relative positions."""
    host = saved(tmp_path / 'tuned.pth', model)
    teacher = build(model, checkpoint=str(tmp_path / 'tuned.pth'),
                    student_input=ANY_SIZE)
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        wanted = host(images)
    logits, features = teacher(images)
    assert torch.equal(logits, wanted) and features == ()
    assert logits.std() > .01


def test_it_is_frozen(tmp_path):
    teacher = build(RESNET)
    teacher.train()
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    before = teacher.fingerprint()
    logits, _ = teacher(IMAGES.requires_grad_())
    assert not logits.requires_grad
    IMAGES.requires_grad_(False)
    assert teacher.fingerprint() == before  # running statistics as well
    assert copy.deepcopy(teacher) is teacher


def test_random_weights_are_the_same_and_leave_no_trace():
    state = torch.get_rng_state()
    first = build(RESNET).fingerprint()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert build(RESNET).fingerprint() == first


def test_initial_weights_of_its_own_config_are_not_read():
    """A pasted config may name the file that it was pre-trained with."""
    model = classifier()
    model['backbone']['init_cfg'] = dict(
        type='Pretrained', checkpoint='PATH', prefix='backbone.')
    build(model).init_weights()
    assert model['backbone']['init_cfg']['checkpoint'] == 'PATH'


def test_images_are_resized_to_its_own(tmp_path):
    model = classifier(backbone=dict(img_size=64, patch_size=16))
    host = saved(tmp_path / 'tuned.pth', model)
    resized = F.interpolate(IMAGES, (64, 64), mode='bicubic', antialias=True)
    with torch.no_grad():
        wanted = host(resized)
    for images in (ANY_SIZE, StudentInput((32, 32), (4, 4), 3)):
        teacher = build(model, checkpoint=str(tmp_path / 'tuned.pth'),
                        student_input=images, aligned_blocks=[2])
        logits, features = teacher(IMAGES)
        assert torch.equal(logits, wanted)
        assert features[0].shape == (3, 17, 32)
        assert teacher.img_size == (64, 64)
    teacher = build(model, checkpoint=str(tmp_path / 'tuned.pth'),
                    student_input=ANY_SIZE)
    assert torch.equal(teacher(resized)[0], wanted)
    assert teacher.image_matcher.describe() == (
        ", resized from the student's where they differ")


@pytest.mark.parametrize('img_size', [48, (48, 40)])
def test_a_size_for_a_backbone_that_takes_any(img_size):
    plain, sized = build(RESNET, student_input=ANY_SIZE), build(
        RESNET, student_input=ANY_SIZE, img_size=img_size)
    assert plain.img_size is None
    size = (48, 48) if img_size == 48 else img_size
    resized = F.interpolate(IMAGES, size, mode='bicubic', antialias=True)
    assert torch.equal(sized(IMAGES)[0], plain(resized)[0])
    assert not torch.equal(sized(IMAGES)[0], plain(IMAGES)[0])
    assert sized.fingerprint() != plain.fingerprint()
    assert 'images of any size' in plain.describe_images()


def test_normalisation_of_its_own_config():
    model = dict(
        RESNET, data_preprocessor=dict(mean=[100.] * 3, std=[50.] * 3))
    images = StudentInput(None, None, 3, mean=(120.,) * 3, std=(60.,) * 3)
    teacher = build(model, student_input=images)
    plain = build(RESNET, student_input=images)
    torch.testing.assert_close(
        teacher(IMAGES)[0], plain((IMAGES * 60 + 120 - 100) / 50)[0])
    told = build(model, student_input=images, mean=(120.,) * 3,
                 std=(60.,) * 3)
    assert torch.equal(told(IMAGES)[0], plain(IMAGES)[0])


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
@pytest.mark.parametrize('model', [classifier(), RESNET])
def test_half_precision(model, dtype, tmp_path):
    saved(tmp_path / 'tuned.pth', model)
    full, half = (
        build(model, checkpoint=str(tmp_path / 'tuned.pth'), dtype=dtype)
        for dtype in ('float32', dtype))
    wanted, logits = full(IMAGES)[0], half(IMAGES)[0]
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, wanted, rtol=.1, atol=.1)
    assert not torch.equal(logits, wanted)
    weight = half.network.head.fc.weight
    assert weight.dtype == getattr(torch, dtype)


class TestCheckpoint:

    def damaged(self, tmp_path, change, model=RESNET):
        host = saved(tmp_path / 'whole.pth', model)
        state = host.state_dict()
        change(state)
        torch.save(dict(state_dict=state), tmp_path / 'tuned.pth')
        return build(model, checkpoint=str(tmp_path / 'tuned.pth'))

    @pytest.mark.parametrize('change, message', [
        (lambda s: s.pop('head.fc.bias'), 'head.fc.bias is missing'),
        (lambda s: s.pop('backbone.bn1.running_mean'),
         'backbone.bn1.running_mean is missing'),
        (lambda s: s.update({'head.fc.weight': torch.zeros(7, 64)}),
         r'head.fc.weight has shape \(7, 64\) instead of \(5, 64\)'),
        (lambda s: s['head.fc.bias'].fill_(torch.nan),
         'head.fc.bias has values that are not finite'),
        (lambda s: s.update({'head.other': torch.zeros(1)}),
         'head.other is unknown'),
        (lambda s: [s.pop(name) for name in list(s)
                    if name.startswith('head.')],
         'a classifier of ResNet and LinearClsHead.*head.fc.weight is '
         'missing.*teacher.model'),
    ])
    def test_that_does_not_fit(self, change, message, tmp_path):
        teacher = self.damaged(tmp_path, change)
        before = teacher.fingerprint()
        with pytest.raises(ValueError, match=message):
            teacher(IMAGES)
        assert teacher.fingerprint() == before

    def test_counters_are_not_needed(self, tmp_path):
        name = 'backbone.bn1.num_batches_tracked'
        teacher = self.damaged(tmp_path, lambda s: s.pop(name))
        teacher(IMAGES)

    def test_of_pretraining(self, tmp_path, toy_model):
        toy_model['backbone']['arch'] = TEACHER
        toy_model['neck']['embed_dim'] = 32
        toy_model.update(teacher=None, aligned_layers=[])
        pretrained = MODELS.build(toy_model)
        torch.save(dict(state_dict=pretrained.state_dict()),
                   tmp_path / 'mae.pth')
        teacher = build(classifier(), checkpoint=str(tmp_path / 'mae.pth'))
        with pytest.raises(ValueError, match='backbone.ln2.weight is missing'):
            teacher.init_weights()

    def test_of_a_distilled_student_teaches_the_next(self, tmp_path):
        model = MODELS.build(student(aligned_layers=[(0, 0)]))
        randomize(model)
        torch.save(dict(state_dict=model.state_dict()), tmp_path / 's.pth')
        assert any('distill_neck' in name for name in model.state_dict())
        teacher = build(
            student(aligned_layers=[(0, 0)]),
            checkpoint=str(tmp_path / 's.pth'))
        model.train(False)
        with torch.no_grad():
            assert torch.equal(teacher(IMAGES)[0], model(IMAGES))

    def test_of_fairs_mae_fine_tuned(self, tmp_path):
        encoder = encoder_only(golden_weights('teacher'))
        tuned = {
            name.replace('norm', 'fc_norm') if name in (
                'norm.weight', 'norm.bias') else name: tensor.float()
            for name, tensor in encoder.items()
        }
        tuned.update({
            'head.weight': torch.randn(5, 32), 'head.bias': torch.randn(5)})
        torch.save(dict(model=tuned), tmp_path / 'fair.pth')
        teacher = build(classifier(), checkpoint=str(tmp_path / 'fair.pth'))
        logits, _ = teacher(IMAGES)
        network = teacher.network
        assert torch.equal(network.head.fc.weight, tuned['head.weight'])
        assert torch.equal(network.backbone.ln2.weight,
                           tuned['fc_norm.weight'])
        tokens = network.backbone(IMAGES)[-1]
        torch.testing.assert_close(
            logits, tokens @ tuned['head.weight'].T + tuned['head.bias'])

    def test_that_is_not_there(self):
        teacher = build(RESNET, checkpoint='PATH_OF_THE_FINETUNED_TEACHER')
        with pytest.raises(
                FileNotFoundError,
                match='model.teacher.checkpoint: .*PATH_OF'):
            teacher.init_weights()


@pytest.mark.parametrize('options, message', [
    (dict(model='vit.py'), "teacher: model='vit.py' is not a dict"),
    (dict(model=dict(RESNET, type='MAE')), "type='MAE' is not an Image"),
    (dict(model=dict(RESNET, type='Nothing')), "type='Nothing' is not an"),
    (dict(model=dict(RESNET, head=None)), 'head=None.*its head'),
    (dict(model=dict(RESNET, head=dict(
        type='ConformerHead', num_classes=5, in_channels=[8, 8]))),
     'ConformerHead does not return one tensor of logits'),
    (dict(model=dict(RESNET, head=dict(
        type='MultiLabelLinearClsHead', num_classes=5, in_channels=64))),
     'MultiLabelLinearClsHead does not return'),
    (dict(model=RESNET, aligned_blocks=[0]),
     'a ResNet has no blocks of tokens.*VisionTransformer.*aligned_layers=.*'),
    (dict(model=classifier(), aligned_blocks=[6]),
     'teacher has no block 6.*-6 to 5'),
    (dict(model=classifier(backbone=dict(img_size=64)), aligned_blocks=[2]),
     'patch grid is 8 x 8, the student has 4 x 4'),
    (dict(model=dict(RESNET, backbone=dict(
        RESNET['backbone'], in_channels=1))), 'images of 1 channels'),
    (dict(model=classifier(), img_size=48),
     r'img_size=\(48, 48\), but its backbone is built for \(32, 32\)'),
    (dict(model=RESNET, img_size=0), r'img_size=\(0, 0\) is not a number'),
    (dict(model=RESNET, img_size=(32, 32, 3)), 'is not a number of pixels'),
    (dict(model=RESNET, allow_random=False), 'checkpoint=None'),
    (dict(model=RESNET, mean=[127.] * 3), 'give both or none'),
    (dict(model=RESNET, dtype='half'), "dtype='half'"),
])
def test_illegal_options(options, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(
            dict(type='ClassifierTeacher', allow_random=True,
                 student_input=StudentInput((32, 32), (4, 4), 3)) | options)


def test_unknown_option():
    with pytest.raises(TypeError, match='backbone=.*model, aligned_blocks'):
        MODELS.build(dict(type='ClassifierTeacher', backbone=STUDENT))


def test_positions_of_another_grid(tmp_path):
    path = str(tmp_path / 'square.pth')
    saved(path, classifier())
    teacher = build(classifier(backbone=dict(img_size=(16, 64))),
                    checkpoint=path, student_input=None)
    with pytest.raises(ValueError, match='4 x 4 .*2 x 8.*teacher.model'):
        teacher.init_weights()
