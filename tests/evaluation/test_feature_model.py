"""Models by all that may name them: their features are the library's own."""
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS

from dmae_mm.evaluation import FeatureModel
from dmae_mm.evaluation.images import image_size
from dmae_mm.models.students import outputs_of_whole_images
from dmae_mm.models.teachers import timm_matches
from dmae_mm.weights import export_checkpoint
from tests.toys import timm_architectures as toys
from tests.toys.hugging_face import GOLDEN
from tests.toys.hugging_face import images as golden_images
from tests.toys.models import STUDENT, randomize

TOY, _, QUICK, REGISTERS = toys.ARCHITECTURES
PREPROCESSOR = dict(
    type='SelfSupDataPreprocessor', mean=[120., 110., 100.],
    std=[60., 55., 50.], bgr_to_rgb=True)
VIT = dict(type='MAEViT', arch=STUDENT, img_size=32, patch_size=8)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(path, name, **kwargs):
    """A model of timm with random weights, and its file."""
    model = timm.create_model(name, **kwargs).eval()
    randomize(model)
    safetensors.torch.save_file(model.state_dict(), path)
    return model


def write_run(backbone, model=dict()):
    """A config, and the checkpoint of a run that says it, too."""
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            model=dict(type='MAE', backbone=backbone,
                       data_preprocessor=PREPROCESSOR) | model))
    cfg.dump('config.py')
    network = MODELS.build(backbone)
    randomize(network)
    torch.save(
        dict(
            state_dict={f'backbone.{name}': tensor
                        for name, tensor in network.state_dict().items()},
            meta=dict(cfg=cfg.pretty_text)), 'epoch_1.pth')
    network.eval()
    return network


@torch.no_grad()
def features(model, pixels):
    """Pixels, (B, 3, H, W) in the order BGR, as the pipeline reads them."""
    batch = model.data_preprocessor(dict(inputs=pixels, data_samples=None))
    return called(model.backbone, batch['inputs'])


def called(backbone, images):
    backbone.eval()
    return outputs_of_whole_images(backbone, images)[-1]


def pixels(size, number=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(
        0, 256, (number, 3, size, size), generator=generator).float()


def normalised(images, mean, std):
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    return (images.flip(1) / 255 - mean) / std


@pytest.mark.parametrize('name', [TOY, f'{TOY}.mae', REGISTERS])
@torch.no_grad()
def test_a_vit_of_timm(name):
    whole = save('a.safetensors', name)
    model = FeatureModel(f'{name}=a.safetensors')
    cfg = whole.pretrained_cfg
    images = normalised(pixels(32), cfg['mean'], cfg['std'])
    own = whole.forward_features(images)
    found = features(model, pixels(32))
    # Registers are no patches: they are not handed out.
    torch.testing.assert_close(found[:, 1:], own[:, -16:])
    torch.testing.assert_close(found[:, 0], own[:, 0])
    assert image_size(model.backbone) == 32
    head = sum(p.numel() for p in whole.head.parameters())
    assert model.num_parameters == sum(
        p.numel() for p in whole.parameters()) - head


@torch.no_grad()
def test_a_vit_of_timm_for_other_images():
    whole = save('a.safetensors', TOY)
    model = FeatureModel(f'{TOY}=a.safetensors', img_size=48)
    model.check_size(48)
    whole.set_input_size(48)
    images = normalised(pixels(48), *toys.INCEPTION.values())
    torch.testing.assert_close(
        features(model, pixels(48)), whole.forward_features(images))


@pytest.mark.parametrize('name', [
    'test_efficientnet', 'test_convnext', 'test_resnet', 'test_mambaout'
])
@torch.no_grad()
def test_any_model_of_timm(name):
    whole = save('a.safetensors', name)
    model = FeatureModel(f'{name}=a.safetensors')
    cfg, size = whole.pretrained_cfg, image_size(model.backbone)
    assert (size, size) == cfg['input_size'][1:]
    images = normalised(pixels(size), cfg['mean'], cfg['std'])
    own = whole.forward_features(images)
    if name == 'test_mambaout':  # channels are last there
        own = own.permute(0, 3, 1, 2)
    torch.testing.assert_close(features(model, pixels(size)), own)
    # What lies behind does not count.
    assert not any(
        parameter.startswith(('head.', 'classifier.', 'fc.'))
        for parameter, _ in model.backbone.timm_model.named_parameters())


@torch.no_grad()
def test_a_folder_of_hugging_face():
    model = FeatureModel(str(GOLDEN / 'dinov2'))
    blocks = np.load(GOLDEN / 'features.npz')['dinov2']
    weights = safetensors.torch.load_file(
        GOLDEN / 'dinov2' / 'model.safetensors')
    wanted = torch.nn.functional.layer_norm(
        torch.from_numpy(blocks[-1]), (16, ), weights['layernorm.weight'],
        weights['layernorm.bias'], 1e-6)
    torch.testing.assert_close(
        called(model.backbone, golden_images()), wanted, rtol=1e-5,
        atol=1e-5)
    # By its preprocessor_config.json.
    assert model.parts['normalise'] == dict(
        mean=[127.5, 63.75, 31.875], std=[63.75, 127.5, 51.], to_rgb=True)


@torch.no_grad()
def test_a_file_without_final_norm():
    whole = save('a.safetensors', TOY)
    weights = safetensors.torch.load_file('a.safetensors')
    torch.save({name: tensor for name, tensor in weights.items()
                if not name.startswith(('norm.', 'head.'))}, 'b.pth')
    model = FeatureModel(f'{TOY}=b.pth')
    images = normalised(pixels(32), *toys.INCEPTION.values())
    whole.norm = torch.nn.Identity()
    torch.testing.assert_close(
        features(model, pixels(32)), whole.forward_features(images))


MAPS = dict(type='TIMMBackbone', model_name='test_efficientnet')


@pytest.mark.parametrize('backbone, model', [
    (VIT, {}),
    (dict(type='MaskedTimmViT', model_name=QUICK), {}),
    (dict(MAPS, features_only=True, out_indices=[4]),
     dict(type='FeatureDistiller', backbone=MAPS, aligned_layers=[])),
], ids=['mmpretrain', 'timm', 'maps of timm'])
def test_what_a_run_leaves(backbone, model):
    """Its checkpoint with the config and alone, and what is exported."""
    network = write_run(backbone, model)
    export_checkpoint('config.py', 'epoch_1.pth', 'student.safetensors',
                      'timm')
    size = image_size(network)
    images = normalised(pixels(size), *(
        [value / 255 for value in PREPROCESSOR[name]]
        for name in ('mean', 'std')))
    with torch.no_grad():
        wanted = called(network, images)
    assert wanted.std() > .01
    for given in (('config.py', 'epoch_1.pth'), ('epoch_1.pth', ),
                  ('student.safetensors', )):
        model = FeatureModel(*given)
        torch.testing.assert_close(features(model, pixels(size)), wanted)
        assert model.file.source == given[-1]


@torch.no_grad()
def test_an_exported_file_of_another_size():
    write_run(VIT)
    export_checkpoint('config.py', 'epoch_1.pth', 'big.pth', 'mmpretrain',
                      img_size=48)
    model = FeatureModel('big.pth')
    assert image_size(model.backbone) == 48
    assert features(model, pixels(48)).shape == (2, 37, 24)


def test_a_config_and_its_file():
    network = write_run(VIT)
    ours = FeatureModel('config.py=epoch_1.pth')
    images = normalised(pixels(32), *(
        [value / 255 for value in PREPROCESSOR[name]]
        for name in ('mean', 'std')))
    with torch.no_grad():
        torch.testing.assert_close(
            features(ours, pixels(32)), called(network, images))


@pytest.mark.parametrize('mean', [None, [1., 2., 3.]])
def test_the_section_of_a_teacher(mean):
    save('a.safetensors', TOY)
    section = dict(
        type='TimmTeacher', model_name=TOY, checkpoint='a.safetensors')
    if mean is not None:
        section.update(mean=mean, std=[4., 5., 6.])
    found = FeatureModel(section).parts['normalise']
    assert found['mean'] == (mean or [127.5] * 3)


@pytest.mark.parametrize('given', ['name', 'run'])
def test_untrained(given):
    if given == 'run':
        write_run(VIT)
        args = ('config.py', 'epoch_1.pth')
    else:
        save('a.safetensors', 'test_resnet')
        args = ('test_resnet=a.safetensors', )
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one = FeatureModel(*args, untrained=True)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    two, trained = FeatureModel(*args, untrained=True), FeatureModel(*args)
    size = image_size(one.backbone)
    torch.testing.assert_close(
        features(one, pixels(size)), features(two, pixels(size)), rtol=0,
        atol=0)
    assert not torch.allclose(
        features(one, pixels(size)), features(trained, pixels(size)))
    assert one.file.sha256 == two.file.sha256 != trained.file.sha256
    assert one.parts == trained.parts
    assert one.num_parameters == trained.num_parameters


@pytest.mark.parametrize('spec, error, message', [
    ('vit_tiny_patch16_22', ValueError, 'vit_tiny_patch16_224'),
    ('test_resne', ValueError, 'test_resnet'),
    ('test_resnet=gone.pth', FileNotFoundError, 'gone.pth'),
    ('test_resnet.foo', ValueError, "no weights 'foo' of test_resnet"),
    ('test_resnet=vit.safetensors', ValueError,
     "vit.safetensors does not fit timm's test_resnet"),
    ('gone.pth', FileNotFoundError, 'gone.pth'),
    ('vit.safetensors', ValueError, f'{TOY}.one=vit.safetensors'),
])
def test_refusals(spec, error, message, monkeypatch):
    monkeypatch.setattr(timm_matches, '_architectures', lambda: [TOY, QUICK])
    save('vit.safetensors', TOY)
    with pytest.raises(error) as found:
        FeatureModel(spec)
    assert message in str(found.value)


def test_images_that_it_cannot_take():
    save('a.safetensors', TOY)
    with pytest.raises(ValueError, match='no multiple of the patch size'):
        FeatureModel(f'{TOY}=a.safetensors', img_size=33)
    write_run(dict(type='TIMMBackbone', model_name=TOY))
    model = FeatureModel('config.py', 'epoch_1.pth')
    with pytest.raises(ValueError, match='cannot take images of 48 x 48 px'):
        model.check_size(48)
    assert model.backbone.training


def test_nothing_is_executed():

    class Payload:

        def __reduce__(self):
            return os.mkdir, ('ran', )

    torch.save(dict(state_dict=Payload()), 'hostile.pth')
    for spec in ('hostile.pth', 'test_resnet=hostile.pth'):
        with pytest.raises(ValueError):
            FeatureModel(spec)
    assert not os.path.exists('ran')
