"""How good are frozen features? Nearest neighbours and a linear probe."""
from typing import Iterable, Tuple

import numpy as np
import torch
import torch.nn as nn


@torch.no_grad()
def extract_features(model: nn.Module,
                     dataloader: Iterable) -> Tuple[np.ndarray, np.ndarray]:
    """Mean of the patch tokens of whole, unmasked images.

    Args:
        model (nn.Module): A self-supervised model of mmpretrain with a plain
            vision transformer that returns all its tokens, such as
            :class:`DMAE`. It is left in eval mode.
        dataloader (Iterable): Labelled batches, in mmpretrain's format.

    Returns:
        tuple[np.ndarray, np.ndarray]: Features (N, C), float32, and labels
        (N, ), int64.
    """
    model.eval()
    features, labels = [], []
    for batch in dataloader:
        batch = model.data_preprocessor(batch, False)
        tokens = model.extract_feat(batch['inputs'])[-1]  # (B, P + L, C)
        patches = tokens[:, model.backbone.num_extra_tokens:]
        features.append(patches.mean(dim=1).cpu())
        labels.extend(int(s.gt_label) for s in batch['data_samples'])
    return torch.cat(features).float().numpy(), np.array(labels)


def knn_accuracy(train: Tuple[np.ndarray, np.ndarray],
                 test: Tuple[np.ndarray, np.ndarray],
                 num_neighbors: int = 5) -> float:
    """Accuracy of the nearest neighbours by cosine similarity.

    Args:
        train (tuple[np.ndarray, np.ndarray]): Features and labels to search.
        test (tuple[np.ndarray, np.ndarray]): Features and labels to classify.
        num_neighbors (int): Defaults to 5.

    Returns:
        float: Top-1 accuracy in percent.
    """
    from sklearn.neighbors import KNeighborsClassifier
    classifier = KNeighborsClassifier(num_neighbors, metric='cosine')
    return 100 * float(classifier.fit(*train).score(*test))


def linear_probe_accuracy(train: Tuple[np.ndarray, np.ndarray],
                          test: Tuple[np.ndarray, np.ndarray]) -> float:
    """Accuracy of a logistic regression on standardised features.

    Args:
        train (tuple[np.ndarray, np.ndarray]): Features and labels to fit.
        test (tuple[np.ndarray, np.ndarray]): Features and labels to classify.

    Returns:
        float: Top-1 accuracy in percent.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    classifier = make_pipeline(StandardScaler(),
                               LogisticRegression(max_iter=1000))
    return 100 * float(classifier.fit(*train).score(*test))
