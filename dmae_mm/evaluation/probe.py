"""How good are frozen features? Nearest neighbours and a linear probe."""
import os.path as osp
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Set, Union

from mmpretrain.datasets import CustomDataset

from dmae_mm.datasets import LoadImageOrSkip

from .feature_model import FeatureModel
from .features import Features, cached_features
from .images import EvaluationPipeline, labelled_images
from .trained_models import move, read_loader


@dataclass(frozen=True)
class ProbedModel:
    """A model that :func:`probe_models` compares with others.

    Attributes:
        model (str | dict): See :class:`FeatureModel`, as the following.
        checkpoint (str, optional): Defaults to None.
        untrained (bool): Defaults to False.
        name (str, optional): What to call it. Defaults to None: as model and
            checkpoint are given.
        img_size (int, optional): Instead of its own. Defaults to None.
    """
    model: Union[str, Dict[str, Any]]
    checkpoint: Optional[str] = None
    untrained: bool = False
    name: Optional[str] = None
    img_size: Optional[int] = None

    @property
    def title(self) -> str:
        """What to call it."""
        if self.name is not None:
            return self.name
        given = self.model if isinstance(self.model, str) else (
            self.model.get('model_name') or self.model.get('checkpoint'))
        given = f'{given} {self.checkpoint or ""}'.strip()
        return f'{given}, untrained' if self.untrained else given


def probe_checkpoint(model: str, checkpoint: Optional[str] = None,
                     *args: Any, **options: Any) -> dict:
    """How well a checkpoint's features tell classes apart.

    Args:
        model (str): See :class:`FeatureModel`.
        checkpoint (str, optional): Likewise.
        *args: As of :func:`probe_models`, behind the models.
        **options: Likewise.

    Returns:
        dict: As of :func:`probe_models`, of this model.
    """
    return probe_models([ProbedModel(model, checkpoint)], *args, **options)[0]


def probe_models(models: Sequence[Union[str, ProbedModel]],
                 train: str,
                 test: str,
                 train_list: Optional[str] = None,
                 test_list: Optional[str] = None,
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
                 cache: str = osp.join('work_dirs', 'evaluate')
                 ) -> List[Dict[str, Any]]:
    """How well the features of several models tell the same classes apart.

    Each model gets the images with its own mean, std and size. Its features
    are those of its last block behind the final norm.

    Args:
        models (Sequence[str | ProbedModel]): The models; a string stands for
            ``ProbedModel(string)``.
        train (str): Folder of the images to learn from.
        test (str): Of those to classify.
        train_list (str, optional): Learn only from the images that this list
            of ``tools/make_subset.py`` names. Defaults to None.
        test_list (str, optional): Likewise, classify. Defaults to None.
        knn (bool): As ``tools/evaluate.py --help`` says, and all others.

    Returns:
        list[dict]: For each model, what was evaluated ('name', 'model',
        'checkpoint', 'sha256', 'parameters' of the backbone, 'img_size',
        'width' and more) and the accuracies in percent: 'knn' and 'linear'.

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: If an option, a model, a checkpoint or the images cannot
            be used. Nothing is computed then.
        OSError: If a file cannot be found, read, fetched or written.
    """
    check_scikit_learn()
    models = [
        ProbedModel(each) if isinstance(each, str) else each
        for each in models
    ]
    ready = []
    for each in models:
        size = each.img_size or img_size
        network = FeatureModel(each.model, each.checkpoint, size,
                               each.untrained)
        loader = LoadImageOrSkip() if network.config is None else (
            read_loader(network.config))
        if value_range is not None:
            loader = LoadImageOrSkip(loader.max_pixels, loader.channels,
                                     value_range)
        pipeline = EvaluationPipeline.of(network.backbone, crop_pct, loader,
                                         size)
        splits = dict(
            train=labelled_images(train, pipeline, train_list),
            test=labelled_images(test, pipeline, test_list))
        check_splits(**splits, num_neighbors=k if knn else 1)
        if size is not None:
            network.check_size(size)
        ready.append((each, network, pipeline, splits))
    rows: List[Dict[str, Any]] = []
    decoded: Set[str] = set()  # all images, by one of these loaders
    for each, network, pipeline, splits in ready:
        move(network, device)
        found = cached_features(
            network, splits, features, cache, batch_size, num_workers,
            check=repr(pipeline.loader) not in decoded)
        decoded.add(repr(pipeline.loader))
        network.to('cpu')
        row = dict(
            name=each.title,
            model=each.model,
            checkpoint=each.checkpoint,
            untrained=each.untrained,
            source=network.file.source,
            sha256=network.file.sha256,
            averaged=network.file.is_averaged,
            parameters=network.num_parameters,
            train=train,
            train_list=train_list,
            test=test,
            test_list=test_list,
            train_images=len(splits['train']),
            test_images=len(splits['test']),
            classes=len(splits['train'].CLASSES),
            img_size=pipeline.img_size,
            crop_pct=crop_pct,
            value_range=pipeline.loader.value_range,
            mean=network.parts['normalise']['mean'],
            std=network.parts['normalise']['std'],
            features=features,
            width=found['train'][0].shape[1])
        if knn:
            row.update(k=k, knn=knn_accuracy(**found, num_neighbors=k))
        if linear:
            row.update(linear=linear_probe_accuracy(**found))
        rows.append(row)
    return rows


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
