"""How good are frozen features? Nearest neighbours and a linear probe."""
import inspect
from typing import Iterable, Tuple

import numpy as np
import torch
import torch.nn as nn

POOLINGS = ('mean', 'cls')


@torch.no_grad()
def extract_features(model: nn.Module,
                     dataloader: Iterable,
                     pooling: str = 'mean') -> Tuple[np.ndarray, np.ndarray]:
    """One vector for each whole, unmasked image.

    Args:
        model (nn.Module): A model with ``backbone`` and
            ``data_preprocessor``, such as :class:`DMAE`, or a
            :class:`FeatureModel`. Of the model, only the backbone is run, in
            eval mode; afterwards, each module is in the mode in which it was.
        dataloader (Iterable): Labelled batches, in mmpretrain's format.
        pooling (str): 'mean' of the patch tokens, or over space, or the
            'cls' token. Defaults to 'mean'.

    Returns:
        tuple[np.ndarray, np.ndarray]: Features (N, C), float32, and labels
        (N, ), int64.

    Raises:
        ValueError: If the backbone's output cannot be pooled so.
    """
    if pooling not in POOLINGS:
        raise ValueError(f'pooling={pooling!r} does not exist. Choose one of '
                         f'{", ".join(POOLINGS)}.')
    backbone = model.backbone
    # Backbones of masked image modelling mask, unless they are told not to.
    masked = 'mask' in inspect.signature(backbone.forward).parameters
    kwargs = dict(mask=None) if masked else {}
    modes = [(module, module.training) for module in backbone.modules()]
    backbone.eval()
    features, labels = [], []
    try:
        for batch in dataloader:
            batch = model.data_preprocessor(batch, False)
            outputs = backbone(batch['inputs'], **kwargs)
            features.append(_pool(backbone, outputs, pooling).cpu())
            labels.extend(int(s.gt_label) for s in batch['data_samples'])
    finally:
        for module, mode in modes:
            module.training = mode
    return torch.cat(features).float().numpy(), np.array(labels)


def _pool(backbone: nn.Module, outputs: Tuple[torch.Tensor, ...],
          pooling: str) -> torch.Tensor:
    """Features (B, C) of a backbone's last output.

    Args:
        backbone (nn.Module): The backbone.
        outputs (tuple[torch.Tensor]): Its outputs, of which the last is
            taken: tokens (B, P + L, C), a map (B, C, rows, columns), or (B,
            C) where the backbone itself pools.
        pooling (str): 'mean' or 'cls'.
    """
    if not outputs:
        raise ValueError(
            f'The backbone, a {type(backbone).__name__}, returns no features: '
            'its out_indices name no block that it has.')
    output, num_extra = outputs[-1], getattr(backbone, 'num_extra_tokens', 0)
    if pooling == 'cls' and (output.dim() != 3 or num_extra == 0):
        raise ValueError(
            f'pooling={pooling!r}, but the backbone, a '
            f'{type(backbone).__name__}, returns no CLS token among its '
            "tokens. Choose 'mean'.")
    if output.dim() == 4:
        return output.mean(dim=(2, 3))
    if output.dim() == 2:
        return output
    return output[:, 0] if pooling == 'cls' else output[:, num_extra:].mean(1)


def check_scikit_learn() -> None:
    """Say how to install what the probes need, before the work.

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise ImportError('Nearest neighbours and linear probe need '
                          'scikit-learn: pip install scikit-learn') from None


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

    This is not MAE's linear probe, which trains for 90 epochs with
    augmentation: that is ``configs/benchmarks/vit-*_linear_in1k.py``.

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
