"""A teacher of timm is filled from any file that holds its weights, or says
why not. Each file goes the way of a training run: ``init_weights()``.
"""
import hashlib
import os
import zipfile

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from mmengine.logging import MMLogger
from mmpretrain.registry import MODELS

from dmae_mm.models.student_input import StudentInput
from dmae_mm.models.timm_vits import check_reachable
from dmae_mm.weights import mae_to_mmpretrain
from dmae_mm.weights.origin import IMAGENET_MEAN, IMAGENET_STD
from tests.toys.checkpoints import GOLDEN, encoder_only, golden_weights
from tests.toys.models import randomize

# As the golden teacher: 16 patches of 8 px, 6 blocks, 32 wide.
KWARGS = dict(
    img_size=32, patch_size=8, embed_dim=32, depth=6, num_heads=2)
NAME = 'vit_base_patch16_224'
FULL = golden_weights('teacher')
ENCODER = encoder_only(FULL)
NORM1 = 'blocks.1.norm1.weight'


def build(checkpoint, name=NAME, kwargs=KWARGS, blocks=(3, ), **options):
    return MODELS.build(
        dict(
            type='TimmTeacher',
            model_name=name,
            model_kwargs=kwargs,
            checkpoint=checkpoint,
            aligned_blocks=blocks,
            **options))


def save(folder, content, name='teacher.pth'):
    path = str(folder / name)
    if name.endswith('.safetensors'):
        safetensors.torch.save_file(content, path)
    else:
        torch.save(content, path)
    return path


def change(name, value):
    weights = {k: v for k, v in ENCODER.items() if k != name}
    return weights if value is None else {**weights, name: value}


@pytest.mark.parametrize('content', [
    ENCODER, FULL, dict(model=FULL), dict(state_dict=ENCODER, epoch=3),
    {f'module.{name}': tensor for name, tensor in ENCODER.items()},
    mae_to_mmpretrain(FULL),
    {name[len('backbone.'):]: tensor
     for name, tensor in mae_to_mmpretrain(ENCODER).items()}
], ids=['encoder', 'MAE', 'MAE as published', 'timm training', 'DDP',
        'mmpretrain', 'mmpretrain backbone'])  # yapf: disable
@pytest.mark.parametrize('name', ['teacher.pth', 'teacher.safetensors'])
def test_golden_features_from_every_layout(tmp_path, content, name):
    """The same features as the reference implementation."""
    if name.endswith('.safetensors') and not all(
            isinstance(value, torch.Tensor) for value in content.values()):
        content = ENCODER
    teacher = build(save(tmp_path, content, name))
    teacher.init_weights()
    feature, = teacher(
        torch.from_numpy(GOLDEN['images']),
        torch.from_numpy(GOLDEN['ids_keep']))
    np.testing.assert_allclose(
        feature, GOLDEN['teacher_feature/3'], rtol=1e-5, atol=1e-5)


def test_averaged_weights_are_taken_and_named(tmp_path, capture_log):
    zeros = {name: torch.zeros_like(t) for name, t in ENCODER.items()}
    teacher = build(
        save(tmp_path, dict(state_dict=zeros, state_dict_ema=ENCODER)))
    teacher.init_weights()
    assert torch.equal(teacher.network.cls_token, ENCODER['cls_token'])
    assert "under 'state_dict_ema'" in capture_log()
    assert 'averaged weights (EMA)' in capture_log()


@pytest.fixture
def capture_log(monkeypatch):
    lines = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'handlers', [])
    monkeypatch.setattr(MMLogger, 'callHandlers',
                        lambda self, record: lines.append(record.getMessage()))
    return lambda: '\n'.join(lines)


def test_the_log_says_what_was_loaded(tmp_path, capture_log):
    path = save(tmp_path, dict(model=FULL, epoch=5))
    teacher = build(path)
    teacher.init_weights()
    log = capture_log()
    # 4 blocks of 12 tensors, 2 of the patches, CLS, positions.
    assert f'52 tensors from {path} under' in log
    assert f'{os.path.getsize(path) / 2**20:.1f} MiB' in log
    assert 'Not used: ' in log and 'blocks, ' in log and 'epoch' in log
    assert '4 x 4 patches in images of 32 x 32 px, with weights of' in log


def test_the_log_says_what_happens_to_the_images(tmp_path, capture_log):
    imagenet = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    student = StudentInput((48, 48), (4, 4), 3, *imagenet)
    teacher = build(
        save(tmp_path, ENCODER), student_input=student, dtype='bfloat16')
    teacher.init_weights()
    assert ("32 x 32 px, resized from the student's, normalised with "
            'mean=[127.5, 127.5, 127.5] and std=[127.5, 127.5, 127.5], with '
            'weights of torch.bfloat16') in capture_log()


FAMILIES = ['vit_base_patch16_224.mae', 'deit3_small_patch16_224.fb_in1k',
            'deit_tiny_distilled_patch16_224.fb_in1k',
            'vit_base_patch16_clip_224.openai',
            'vit_base_patch16_siglip_224.webli',
            'vit_small_patch14_dinov2.lvd142m',
            'vit_small_patch14_reg4_dinov2.lvd142m',
            'eva02_tiny_patch14_224.mim_in22k',
            'vit_small_patch16_dinov3.lvd1689m',
            'vit_small_patch16_rope_mixed_224.naver_in1k']  # yapf: disable


@pytest.mark.parametrize('grid', [(4, 4), (6, 6), (3, 5)])
@pytest.mark.parametrize('name', FAMILIES)
def test_file_of_timm_to_any_grid(tmp_path, name, grid):
    """As timm's own set_input_size resamples the whole model."""
    side = 14 if 'patch14' in name else 16
    kwargs = dict(img_size=4 * side, embed_dim=32, depth=6, num_heads=2)
    whole = timm.create_model(name, **kwargs).eval()
    randomize(whole)
    path = save(tmp_path, whole.state_dict(), 'timm.safetensors')
    student = StudentInput((grid[0] * 8, grid[1] * 8), grid, 3)
    teacher = build(path, name, kwargs, student_input=student)
    teacher.init_weights()
    size = (grid[0] * side, grid[1] * side)
    assert teacher.img_size == size
    whole.set_input_size(img_size=size)
    state = whole.state_dict()
    for key, tensor in teacher.network.state_dict().items():
        torch.testing.assert_close(tensor, state[key])
    images = torch.randn(2, 3, *size)
    ids_keep = torch.arange(grid[0] * grid[1]).expand(2, -1)
    feature, = teacher.extract_features(images, ids_keep)
    whole.prune_intermediate_layers([3], prune_norm=True)
    torch.testing.assert_close(
        feature, whole.forward_features(images), rtol=1e-5, atol=1e-5)


ILLEGAL = {
    'patches of another size':
    (change('patch_embed.proj.weight', torch.zeros(32, 3, 4, 4)),
     'patch_embed.proj.weight has shape (32, 3, 4, 4) instead of'),
    'another image size': (change('pos_embed', torch.zeros(1, 50, 32)),
                           'pos_embed has shape (1, 50, 32) instead of'),
    'wider':
    ({k: torch.cat([v, v], dim=-1)
      for k, v in ENCODER.items()}, 'instead of (1, 1, 32)'),
    'swapped': (change('blocks.0.mlp.fc1.weight', torch.zeros(32, 128)),
                'blocks.0.mlp.fc1.weight has shape (32, 128) instead of'),
    'half is missing':
    (dict(list(ENCODER.items())[:len(ENCODER) // 2]), 'is missing'),
    'NaN': (change(NORM1, torch.full([32], float('nan'))),
            f'{NORM1} has values that are not finite'),
    'integers': (change(NORM1, torch.ones(32, dtype=torch.int8)),
                 f'{NORM1} has values of type torch.int8'),
    'deeper':
    (ENCODER | {k.replace('blocks.0', 'blocks.6'): v
                for k, v in ENCODER.items() if 'blocks.0' in k},
     'the file has 7 blocks instead of 6'),
    'shallower':
    ({k: v for k, v in ENCODER.items() if 'blocks.5' not in k},
     'the file has 5 blocks instead of 6'),
    'layer scale': (ENCODER | {'blocks.0.ls1.gamma': torch.ones(32)},
                    'blocks.0.ls1.gamma is unknown'),
    'rotary': (timm.create_model(
        'eva02_tiny_patch14_224', depth=2, embed_dim=32,
        num_heads=2).state_dict(), 'is missing'),
    'a ResNet': (timm.create_model('resnet10t').state_dict(), 'is a ResNet'),
    'a decoder': ({k: v for k, v in FULL.items() if 'decoder' in k},
                  'cls_token is missing'),
}  # yapf: disable


@pytest.mark.parametrize('kind', ILLEGAL)
def test_illegal_weights(tmp_path, kind):
    weights, message = ILLEGAL[kind]
    teacher = build(save(tmp_path, weights))
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    for _ in range(2):  # a second attempt is not taken for loaded
        with pytest.raises(ValueError) as error:
            teacher.init_weights()
        assert message in str(error.value)
        assert f'The teacher checkpoint {teacher.checkpoint}' in str(
            error.value)
        assert len(str(error.value)) < 1200
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_deit3_is_not_the_same_in_mmpretrain_and_timm(tmp_path):
    """mmpretrain applies a block's ln1 twice, timm norm1 and norm2."""
    timm_file = save(
        tmp_path,
        timm.create_model('deit3_small_patch16_224', **KWARGS).state_dict())
    arch = dict(
        embed_dims=32, num_layers=6, num_heads=2, feedforward_channels=128)
    backbone = dict(type='DeiT3', arch=arch, img_size=32, patch_size=8)
    teacher = MODELS.build(
        dict(
            type='MMPretrainTeacher',
            backbone=backbone,
            checkpoint=timm_file,
            aligned_blocks=[3]))
    with pytest.raises(ValueError, match='ln1 where.*Use a TimmTeacher'):
        teacher.init_weights()
    mm_file = save(tmp_path, MODELS.build(backbone).state_dict(), 'mm.pth')
    teacher = build(mm_file, 'deit3_small_patch16_224')
    with pytest.raises(ValueError, match='ln1 where.*MMPretrainTeacher'):
        teacher.init_weights()


class Hostile:

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f'touch {self.marker}', )


def hostile_file(folder, kind, marker):
    """A file that is something else than it seems."""
    path = save(folder, dict(model=ENCODER))
    if kind == 'pickle':
        torch.save(dict(model=ENCODER, args=Hostile(marker)), path)
    elif kind == 'legacy pickle':
        torch.save(
            dict(model=ENCODER, args=Hostile(marker)),
            path,
            _use_new_zipfile_serialization=False)
    elif kind == 'truncated':
        os.truncate(path, os.path.getsize(path) // 2)
    elif kind == 'another zip':
        with zipfile.ZipFile(path, 'w') as archive:
            archive.writestr('readme.txt', 'no weights here')
    elif kind == 'text':
        (folder / 'teacher.pth').write_text('cls_token = 1\n' * 100)
    elif kind == 'lying header':  # 8 EiB of header
        path = str(folder / 'teacher.safetensors')
        with open(path, 'wb') as file:
            file.write((2**62).to_bytes(8, 'little') + b'{}')
    elif kind == 'lying size':  # a tensor of 4 TiB in a file of 100 bytes
        path = str(folder / 'teacher.safetensors')
        header = (b'{"cls_token":{"dtype":"F32","shape":[1099511627776],'
                  b'"data_offsets":[0,4398046511104]}}')
        with open(path, 'wb') as file:
            file.write(len(header).to_bytes(8, 'little') + header + bytes(16))
    return path


@pytest.mark.parametrize('teacher_type', ['TimmTeacher', 'MMPretrainTeacher'])
@pytest.mark.parametrize('kind', [
    'pickle', 'legacy pickle', 'truncated', 'another zip', 'text',
    'lying header', 'lying size'
])
def test_hostile_file(tmp_path, kind, teacher_type):
    marker = tmp_path / 'code-from-the-file-ran'
    path = hostile_file(tmp_path, kind, marker)
    if teacher_type == 'TimmTeacher':
        teacher = build(path)
    else:
        teacher = MODELS.build(
            dict(
                type=teacher_type,
                backbone=dict(type='MAEViT', img_size=32, patch_size=8),
                checkpoint=path,
                aligned_blocks=[0]))
    peak = peak_memory()
    with pytest.raises(ValueError) as error:
        teacher.init_weights()
    assert path in str(error.value)
    advice = 'If you trust' if 'pickle' in kind else 'fetch it again'
    assert advice in str(error.value)
    assert not marker.exists()
    assert peak_memory() - peak < 64 * 2**20


def peak_memory():
    """Most memory that this process has used, in bytes."""
    with open('/proc/self/status') as status:
        line = next(line for line in status if line.startswith('VmPeak'))
    return 1024 * int(line.split()[1])


def test_sha256(tmp_path):
    path = save(tmp_path, ENCODER)
    with open(path, 'rb') as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    build(path, sha256=digest).init_weights()
    build(path, sha256=digest[:8].upper()).init_weights()
    teacher = build(path, sha256='0' * 64)
    with pytest.raises(ValueError, match=f'{digest}.*sha256=.0000.*fetch it'):
        teacher.init_weights()
    assert not teacher.is_loaded


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the Hugging Face hub, and no network."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path))
    return tmp_path


def cache_on_hub(hub, repository, content, name='model.safetensors'):
    folder = hub / f'models--{repository.replace("/", "--")}'
    commit = '0123456789' * 4
    (folder / 'snapshots' / commit).mkdir(parents=True)
    (folder / 'refs').mkdir()
    (folder / 'refs' / 'main').write_text(commit)
    return save(folder / 'snapshots' / commit, content, name)


@pytest.mark.parametrize('file', ['model.safetensors', 'pytorch_model.bin'])
def test_pretrained_from_the_hubs_cache(hub, file, capture_log):
    name = 'vit_base_patch16_224.mae'
    teacher = build(None, name, pretrained=True)  # reads nothing yet
    assert teacher.checkpoint == f'hf-hub:timm/{name}'
    cached = cache_on_hub(hub, f'timm/{name}', ENCODER, file)
    teacher.init_weights()
    assert torch.equal(teacher.network.pos_embed, ENCODER['pos_embed'])
    assert cached in capture_log()


def test_pretrained_without_network(hub):
    teacher = build(None, 'vit_base_patch16_224.mae', pretrained=True)
    with pytest.raises(OSError, match='timm/vit_base_patch16_224.mae cannot '
                       'be fetched.*HF_HOME.*give its path'):
        teacher.init_weights()
    assert not teacher.is_loaded


def test_whether_weights_can_be_fetched(hub):
    name = 'vit_base_patch16_224.mae'
    with pytest.raises(OSError, match='timm/.*mae cannot be fetched.*=FILE'):
        check_reachable(name)
    cache_on_hub(hub, f'timm/{name}', ENCODER)
    check_reachable(name)


def test_hostile_file_from_the_hub(hub):
    marker = hub / 'code-from-the-file-ran'
    name = 'vit_base_patch16_224.mae'
    cache_on_hub(hub, f'timm/{name}', dict(a=Hostile(marker)),
                 'pytorch_model.bin')
    with pytest.raises(ValueError, match='is refused'):
        build(None, name, pretrained=True).init_weights()
    assert not marker.exists()


def test_no_weights_to_be_had():
    with pytest.raises(ValueError, match='timm names no weights.*with a tag'):
        build(None, 'vit_base_patch16_gap_224', pretrained=True)


IMAGENET = StudentInput((32, 32), (4, 4), 3, IMAGENET_MEAN, IMAGENET_STD, True)


@pytest.mark.parametrize('content, mean', [
    (ENCODER, 127.5),  # by timm's description of the name
    (FULL, 123.675),  # MAE, whatever the name
    (dict(state_dict=mae_to_mmpretrain(ENCODER),
          meta=dict(trained_as=dict(mean=[1., 2, 3], std=[4., 5, 6]))), 1),
])
def test_whose_mean_and_std(tmp_path, content, mean):
    teacher = build(save(tmp_path, content), student_input=IMAGENET)
    teacher.init_weights()
    assert teacher.image_matcher.mean[0] == mean


def test_names_of_mmpretrain_need_a_normalisation(tmp_path):
    path = save(tmp_path, mae_to_mmpretrain(ENCODER))
    with pytest.raises(ValueError, match="mmpretrain's names.*127.5.*123.675"):
        build(path, student_input=IMAGENET).init_weights()
    given = dict(mean=[9.] * 3, std=[3.] * 3)
    teacher = build(path, student_input=IMAGENET, **given)
    teacher.init_weights()
    assert list(teacher.image_matcher.mean) == given['mean']


@pytest.mark.parametrize('content', [ENCODER, mae_to_mmpretrain(ENCODER)])
def test_as_many_patches_of_another_grid(tmp_path, content):
    """4 x 4 are no 2 x 8, unless the file says so; for a student of 2 x 8
    they are resampled."""
    path = save(tmp_path, content)
    oblong = dict(KWARGS, img_size=(16, 64))
    with pytest.raises(ValueError, match='4 x 4 .*2 x 8.*model_kwargs'):
        build(path, kwargs=oblong).init_weights()
    teacher = build(
        path, student_input=StudentInput((16, 64), (2, 8), 3))
    teacher.init_weights()
    wanted = timm.layers.resample_abs_pos_embed(
        ENCODER['pos_embed'], [2, 8], [4, 4])
    torch.testing.assert_close(teacher.network.pos_embed, wanted)
    said = dict(trained_as=dict(img_size=[16, 64]))
    path = save(tmp_path, dict(state_dict=content, meta=said))
    build(path, kwargs=oblong).init_weights()
    with pytest.raises(ValueError, match='2 x 8 patches .as its metadata'):
        build(path).init_weights()


@pytest.mark.parametrize('name, given, wanted', [
    ('vit_small_patch14_dinov2.lvd142m', 4,
     "'vit_small_patch14_reg4_dinov2.lvd142m'"),
    ('vit_small_patch14_reg4_dinov2.lvd142m', 0,
     "'vit_small_patch14_dinov2.lvd142m'"),
])
def test_registers_name_the_model_that_has_them(tmp_path, name, given,
                                                wanted):
    kwargs = dict(img_size=28, embed_dim=32, depth=2, num_heads=2)
    right = timm.create_model(wanted.strip("'"), **kwargs)
    path = save(tmp_path, right.state_dict())
    with pytest.raises(ValueError) as error:
        build(path, name, kwargs, blocks=(1, )).init_weights()
    assert f'has {given or "no"} register' in str(error.value)
    assert f'model_name={wanted}' in str(error.value)
