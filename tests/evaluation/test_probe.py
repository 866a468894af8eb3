from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from dmae_mm.evaluation import (ProbedModel, extract_features, knn_accuracy,
                                linear_probe_accuracy, probe_models)
from dmae_mm.evaluation import features as probe_features
from dmae_mm.weights import read_tensor_file
from tests.toys import timm_architectures as toys
from tests.toys.folders import write_classes
from tests.toys.models import randomize

# Two directions, three lengths each: cosine tells them apart, distance not.
TRAIN = (np.array([[1., 0], [5, .1], [9, 0], [0, 1], [.1, 5], [0, 9]]),
         np.array([0, 0, 0, 1, 1, 1]))
TEST = (np.array([[100., 1], [1, 100], [3, .5], [100, 1]]),
        np.array([0, 1, 0, 1]))


def test_knn_by_hand():
    assert knn_accuracy(TRAIN, TEST, num_neighbors=3) == 75


def test_linear_probe_separates_what_is_separable():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 4)).astype(np.float32)
    labels = (features @ [1, -2, 0, 1] > 0).astype(int)
    train = features[:150] * [1, 1000, 1, 1], labels[:150]
    test = features[150:] * [1, 1000, 1, 1], labels[150:]
    assert linear_probe_accuracy(train, test) >= 96
    assert linear_probe_accuracy(train, (test[0], 1 - test[1])) <= 4


def test_features_are_the_mean_of_the_patch_tokens(toy_model, images):
    toy_model['data_preprocessor'] = dict(
        type='SelfSupDataPreprocessor', mean=[1.] * 3, std=[2.] * 3)
    model = MODELS.build(toy_model)
    model.init_weights()
    batches = [
        dict(
            inputs=images[i:i + 2],
            data_samples=[
                DataSample().set_gt_label(label)
                for label in range(i, min(i + 2, 3))
            ]) for i in (0, 2)
    ]
    features, labels = extract_features(model, batches)
    assert labels.tolist() == [0, 1, 2]
    with torch.no_grad():
        tokens = model.backbone((images - 1) / 2, mask=None)[0]
    assert tokens.shape == (3, 17, 24)
    np.testing.assert_allclose(
        features, tokens[:, 1:].mean(1).numpy(), rtol=1e-4, atol=1e-6)
    assert features.dtype == np.float32
    with pytest.raises(AttributeError, match='gt_label'):
        extract_features(
            model, [dict(inputs=images[:1], data_samples=[DataSample()])])


def save_timm(path, name, scale=1.):
    model = timm.create_model(name)
    randomize(model)
    state = model.state_dict()
    state['patch_embed.proj.weight'] *= scale
    torch.save(state, path)
    return path


@pytest.fixture
def labelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return dict(
        train=write_classes(Path('train'), 3, 6, seed=1),
        test=write_classes(Path('test'), 3, 5, seed=2),
        num_workers=0)


@torch.no_grad()
def test_several_models_of_the_same_images(labelled):
    """Each with its own normalisation, by timm's own forward pass."""
    name = toys.ARCHITECTURES[0]
    spec = f'{name}.mae={save_timm("a.pth", name)}'
    rows = probe_models(
        [
            spec,
            ProbedModel(spec, untrained=True, name='fresh'),
            ProbedModel(f'{name}.one=a.pth', img_size=48)
        ],
        k=3, crop_pct=.8, **labelled)
    assert [row['name'] for row in rows] == [
        spec, 'fresh', f'{name}.one=a.pth']
    assert [row['img_size'] for row in rows] == [32, 32, 48]
    assert len({row['sha256'] for row in rows}) == 2
    assert {(row['classes'], row['train_images'], row['test_images'],
             row['width'], row['k']) for row in rows} == {(3, 18, 15, 16, 3)}
    assert rows[0]['mean'] == pytest.approx([123.675, 116.28, 103.53])
    assert rows[2]['mean'] == [127.5] * 3

    model = timm.create_model(name).eval()
    model.load_state_dict(torch.load('a.pth'))
    whole = sum(p.numel() for p in model.parameters())
    assert rows[0]['parameters'] == rows[1]['parameters'] == whole - sum(
        p.numel() for p in model.head.parameters())
    splits = {}
    for split in ('train', 'test'):
        paths = sorted(Path(split).glob('*/*.png'))
        # 40 x 48: the shorter side becomes round(32 / 0.8) = 40, as it is.
        images = torch.stack([
            torch.from_numpy(cv2.imread(str(path))[4:36, 8:40, ::-1].copy())
            for path in paths]).permute(0, 3, 1, 2) / 255
        mean, std = (torch.tensor(v).view(3, 1, 1)
                     for v in toys.IMAGENET.values())
        tokens = model.forward_features((images - mean) / std)
        splits[split] = (tokens[:, 1:].mean(1).numpy(), np.array(
            [int(path.parent.name[-1]) for path in paths]))
    assert rows[0]['knn'] == knn_accuracy(**splits, num_neighbors=3)
    assert rows[0]['linear'] == linear_probe_accuracy(**splits)
    kept, = [
        file for file in map(read_tensor_file, map(
            str, Path('work_dirs/evaluate').iterdir()))
        if file.meta['sha256'] == rows[0]['sha256']
        and np.allclose(file.tensors['features'], splits['test'][0]
                        if len(file.tensors['features']) == 15 else 0,
                        rtol=1e-5, atol=1e-5)
    ]
    assert len(kept.tensors['labels']) == 15


def test_each_has_features_of_its_own_in_the_cache(labelled, monkeypatch):
    """By weights and normalisation, however it is named."""
    name = toys.ARCHITECTURES[0]
    save_timm('a.pth', name)
    extracted = []
    monkeypatch.setattr(
        probe_features, 'extract_features',
        lambda model, *args: extracted.append(1) or extract_features(
            model, *args))
    specs = [f'{name}.mae=a.pth', f'{name}.one=a.pth']
    probe_models(specs, knn=True, linear=False, **labelled)
    assert len(extracted) == 4
    probe_models([*specs, f'{name}.same=a.pth'], linear=False, **labelled)
    # .one and .same differ in their names alone; the config holds these.
    assert len(extracted) == 6


@pytest.mark.parametrize('specs, message', [
    (['{0}.one=a.pth', 'test_resne'], 'test_resnet'),
    (['{0}.one=a.pth', '{0}=gone.pth'], 'gone.pth'),
    (['{0}.one=nan.pth'], 'not finite'),
])
def test_nothing_is_computed_before_all_is_found(specs, message, labelled):
    name = toys.ARCHITECTURES[0]
    save_timm('a.pth', name)
    save_timm('nan.pth', name, float('nan'))
    with pytest.raises((OSError, ValueError), match=message):
        probe_models([spec.format(name) for spec in specs], **labelled)
    assert not Path('work_dirs').exists()


def test_features_that_are_not_finite(labelled):
    name = toys.ARCHITECTURES[0]
    save_timm('a.pth', name, 1e38)
    with pytest.raises(ValueError, match="a.pth makes features that are not "
                       "finite of 18 of 18 images, such as 'train/class0"):
        probe_models([f'{name}.one=a.pth'], **labelled)
    assert not Path('work_dirs').exists()
