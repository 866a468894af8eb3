"""The pipelines of a data set."""
from typing import Any, Iterator, List, Optional

from .transforms import LoadImageOrSkip


def parts_of(dataset: Any) -> List[Any]:
    """The data sets that one wraps or concatenates, or itself.

    Args:
        dataset: Any data set.

    Returns:
        list: Those that wrap no others.
    """
    if getattr(dataset, 'datasets', None):  # concatenated
        return [part for one in dataset.datasets for part in parts_of(one)]
    # mmengine's ``num_batch_per_epoch`` wraps with a private attribute.
    for name in ('dataset', '_dataset'):
        if name in getattr(dataset, '__dict__', {}):
            return parts_of(getattr(dataset, name))
    return [dataset]


def pipelines_of(dataset: Any) -> List[list]:
    """The lists of transforms of a data set, looking through wrappers.

    Args:
        dataset: A data set with a ``pipeline``, or one that wraps or
            concatenates such.

    Returns:
        List[list]: The transforms of each pipeline, the first to run first;
        no list for a data set without a pipeline.
    """
    return [
        part.pipeline.transforms for part in parts_of(dataset)
        if hasattr(getattr(part, 'pipeline', None), 'transforms')
    ]


def loader_of(dataset: Any) -> Optional[LoadImageOrSkip]:
    """What decodes the images of a data set, the first if there are several.

    Args:
        dataset: As of :func:`pipelines_of`.

    Returns:
        LoadImageOrSkip | None: None if it has none.
    """
    found = (
        # Of an EvaluationPipeline, which is one transform.
        getattr(transform, 'loader', transform)
        for transforms in pipelines_of(dataset) for transform in transforms)
    return next(
        (loader for loader in found if isinstance(loader, LoadImageOrSkip)),
        None)


def loader_of_config(section: Any) -> LoadImageOrSkip:
    """How a training decodes images, from its config.

    Args:
        section: Of a data loader, or anything in it.

    Returns:
        LoadImageOrSkip: As the first one that is found in it, or with the
        default options if there is none.
    """
    found = next(_loaders(section), {})
    return LoadImageOrSkip(
        **{key: value for key, value in found.items() if key != 'type'})


def _loaders(section: Any) -> Iterator[dict]:
    if isinstance(section, dict):
        kind = section.get('type')
        name = kind if isinstance(kind, str) else getattr(
            kind, '__name__', '')
        if name.rpartition('.')[2] == LoadImageOrSkip.__name__:
            yield section
        section = section.values()
    elif not isinstance(section, (list, tuple)):
        return
    for value in section:
        yield from _loaders(value)


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
