"""How good are frozen features? Nearest neighbours and a linear probe."""
import os.path as osp
from typing import Optional, Sequence

from mmpretrain.datasets import CustomDataset

from .features import Features, cached_features
from .images import EvaluationPipeline, labelled_images
from .trained_models import FeatureModel, move, read_loader


def probe_checkpoint(model: str,
                     checkpoint: str,
                     train: str,
                     test: str,
                     train_list: Optional[str] = None,
                     knn: bool = True,
                     linear: bool = True,
                     k: int = 5,
                     features: str = 'mean',
                     crop_pct: float = 0.875,
                     img_size: Optional[int] = None,
                     value_range: Optional[Sequence[float]] = None,
                     batch_size: int = 128,
                     num_workers: int = 2,
                     device: Optional[str] = None,
                     cache: str = osp.join('work_dirs', 'evaluate')) -> dict:
    """How well a checkpoint's features tell classes apart.

    Args: As ``tools/evaluate.py --help`` says.

    Returns:
        dict: What was evaluated, and the accuracies in percent: 'knn' and
        'linear'.

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: If an option, the model, the checkpoint or the images
            cannot be used.
        OSError: If a file cannot be found, read, fetched or written.
    """
    check_scikit_learn()
    network = FeatureModel(model, checkpoint)
    pipeline = EvaluationPipeline.of(
        network.backbone, crop_pct,
        read_loader(model, value_range=value_range), img_size)
    splits = dict(
        train=labelled_images(train, pipeline, train_list),
        test=labelled_images(test, pipeline))
    check_splits(**splits, num_neighbors=k if knn else 1)
    move(network, device)
    found = cached_features(network, splits, features, cache, batch_size,
                            num_workers)
    results = dict(
        model=model,
        checkpoint=checkpoint,
        sha256=network.file.sha256,
        averaged=network.file.is_averaged,
        train=train,
        train_list=train_list,
        test=test,
        train_images=len(splits['train']),
        test_images=len(splits['test']),
        classes=len(splits['train'].CLASSES),
        img_size=pipeline.img_size,
        crop_pct=crop_pct,
        value_range=pipeline.loader.value_range,
        features=features,
        width=found['train'][0].shape[1])
    if knn:
        results.update(k=k, knn=knn_accuracy(**found, num_neighbors=k))
    if linear:
        results.update(linear=linear_probe_accuracy(**found))
    return results


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


def check_splits(train: CustomDataset, test: CustomDataset,
                 num_neighbors: int) -> None:
    """Refuse splits that cannot be compared with each other.

    Args:
        train (CustomDataset): Images to learn from.
        test (CustomDataset): Images to classify.
        num_neighbors (int): k of the nearest neighbours.

    Raises:
        ValueError: If their classes differ, only one of them is among the
            training images, or there are fewer of these than neighbours.
    """
    ours, theirs = set(train.CLASSES), set(test.CLASSES)
    if ours != theirs:
        raise ValueError(
            'The class folders differ. Only in '
            f'{osp.normpath(train.img_prefix)}: '
            f'{sorted(ours - theirs) or "none"}; only in '
            f'{osp.normpath(test.img_prefix)}: '
            f'{sorted(theirs - ours) or "none"}. Both need the same ones.')
    if len(set(train.get_gt_labels().tolist())) < 2:
        raise ValueError(f'All images that {train.ann_file!r} names are of '
                         'one class. At least two are needed.')
    if not 1 <= num_neighbors <= len(train):
        raise ValueError(
            f'k={num_neighbors} nearest neighbours cannot be found among '
            f'{len(train)} training images. Give k from 1 to {len(train)}.')


def knn_accuracy(train: Features,
                 test: Features,
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


def linear_probe_accuracy(train: Features, test: Features) -> float:
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
