import numpy as np
import pytest
import torch
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from dmae_mm.evaluation import (extract_features, knn_accuracy,
                              linear_probe_accuracy)

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
