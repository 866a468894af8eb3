"""Data loaders that give no batch, found before anything is trained."""
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_world_size
from torch.utils.data import DataLoader


def check_not_empty(dataloader: DataLoader, option: str) -> None:
    """Refuse a data loader that gives no batch.

    MMEngine trains without one: for no steps, and writes checkpoints.

    Args:
        dataloader (DataLoader): Of this process.
        option (str): Its name in the config, 'train_dataloader'.

    Raises:
        ValueError: Names images, batch size, processes and ``drop_last``.
    """
    dataset, batches = dataloader.dataset, dataloader.batch_sampler
    sampler = getattr(batches, 'sampler', dataloader.sampler)
    images = len(dataset) if hasattr(dataset, '__len__') else None
    if isinstance(sampler, InfiniteSampler):
        empty = images == 0  # it repeats fewer than a batch
    else:
        try:
            empty = len(dataloader) == 0
        except TypeError:  # a stream of unknown length
            return
    if not empty:
        return
    size = getattr(batches, 'batch_size', dataloader.batch_size)
    drop_last = getattr(batches, 'drop_last', dataloader.drop_last)
    processes = get_world_size()
    each = len(sampler) if hasattr(sampler, '__len__') else images
    if not images:
        advice = f'{option}.dataset finds no images: look at its paths'
    elif not each:
        advice = (f'{option}.sampler.type={type(sampler).__name__!r} chooses '
                  "none of them: take 'DefaultSampler', or more images")
    else:
        advice = (f'take {option}.batch_size of at most {each}, '
                  f'{option}.drop_last=False, or more images')
    raise ValueError(
        f'{option} gives no batch: {images} images in all, {each} of them in '
        f'each of {processes} process{"es" * (processes > 1)}, batch_size='
        f'{size}, drop_last={drop_last}. What to do: {advice}.')


def check_loaders(runner) -> None:
    """Refuse empty data loaders of all loops that have been built.

    Args:
        runner (Runner): About to train, validate or test.

    Raises:
        ValueError: For the first one.
    """
    for name in ('train', 'val', 'test'):
        loop = getattr(runner, f'_{name}_loop')
        if isinstance(getattr(loop, 'dataloader', None), DataLoader):
            check_not_empty(loop.dataloader, f'{name}_dataloader')
