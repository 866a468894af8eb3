"""The pipelines of a data set."""
from typing import Any, List

from .transforms import LoadImageOrSkip


def pipelines_of(dataset: Any) -> List[list]:
    """The lists of transforms of a data set, looking through wrappers.

    Args:
        dataset: A data set with a ``pipeline``, or one that wraps or
            concatenates such.

    Returns:
        List[list]: The transforms of each pipeline, the first to run first;
        no list for a data set without a pipeline.
    """
    if getattr(dataset, 'datasets', None):  # concatenated
        return [
            transforms for part in dataset.datasets
            for transforms in pipelines_of(part)
        ]
    # mmengine's ``num_batch_per_epoch`` wraps with a private attribute.
    for name in ('dataset', '_dataset'):
        if name in getattr(dataset, '__dict__', {}):
            return pipelines_of(getattr(dataset, name))
    transforms = getattr(
        getattr(dataset, 'pipeline', None), 'transforms', None)
    return [] if transforms is None else [transforms]


def let_skip(dataset: Any) -> List[list]:
    """Tell the pipelines of a data set to skip broken images.

    Args:
        dataset: As of :func:`pipelines_of`.

    Returns:
        List[list]: The transforms of each pipeline that will skip.
    """
    skipping = []
    for transforms in pipelines_of(dataset):
        for transform in transforms:
            if isinstance(transform, LoadImageOrSkip):
                transform.skip = True
                skipping.append(transforms)
    return skipping
