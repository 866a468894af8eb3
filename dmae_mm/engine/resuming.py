"""Where a run can be interrupted so that it goes on exactly."""
from typing import Any, Optional

from mmengine.runner import IterBasedTrainLoop
from torch.utils.data import BatchSampler

from dmae_mm.datasets import SeededSampler, SeedSample
from dmae_mm.datasets.pipelines import pipelines_of
from dmae_mm.datasets.seeds import SeededIndex

from .resumable_train_loop import ResumableTrainLoop


def pending_gradients(runner) -> bool:
    """Whether gradients wait for the optimizer's step.

    Asked after an iteration. No checkpoint holds them, so that a run that
    resumes here goes on without.
    """
    optim_wrapper = runner.optim_wrapper
    return (hasattr(optim_wrapper, 'should_update')
            and not optim_wrapper.should_update())


def why_not_inside_epoch(runner) -> Optional[str]:
    """Why a run cannot exactly resume inside an epoch.

    Returns:
        str: What to change; None if it can.
    """
    loop = runner.train_loop
    if isinstance(loop, IterBasedTrainLoop):
        return None  # mmengine skips the samples itself
    if not isinstance(loop, ResumableTrainLoop):
        return (f'the loop is {type(loop).__name__}, which begins the epoch '
                "anew: set train_cfg=dict(type='ResumableTrainLoop', ...)")
    dataloader = loop.dataloader
    # Another batch sampler may use the samples in another order.
    if (type(dataloader.batch_sampler) is not BatchSampler
            or dataloader.batch_size is None
            or not hasattr(dataloader.sampler, 'skip')):
        return (f'the sampler is {type(dataloader.sampler).__name__}, which '
                'cannot skip samples: set train_dataloader.sampler='
                "dict(type='SeededSampler') and no batch_sampler")
    if not _seeds_samples(dataloader.dataset):
        return ('random crops depend on what was drawn before: put '
                "dict(type='SeedSample') first in the training pipeline")
    return None


def check_seeding(runner) -> None:
    """Refuse a sampler and a pipeline that do not belong together.

    Raises:
        ValueError: If samples would be seeded on one side only.
    """
    dataloader = runner.train_loop.dataloader
    dataset = dataloader.dataset
    sampler = getattr(dataloader.batch_sampler, 'sampler', dataloader.sampler)
    seeded = isinstance(sampler, SeededSampler)
    seeds = _seeds_samples(dataset)
    if seeds and not seeded:
        raise ValueError(
            'SeedSample in the training pipeline takes seeds that '
            f'train_dataloader.sampler={type(sampler).__name__} does not '
            "give: set train_dataloader.sampler.type='SeededSampler', or "
            'leave SeedSample out.')
    if seeded and not seeds and pipelines_of(dataset):
        raise ValueError(
            'SeededSampler gives each sample a seed, but '
            "dict(type='SeedSample') is not first in the training pipeline: "
            'put it there, or set '
            "train_dataloader.sampler.type='DefaultSampler'.")
    if seeds and hasattr(dataset, 'get_data_info') and len(dataset):
        last = len(dataset) - 1
        index = dataset.get_data_info(SeededIndex(last, 0, 0)).get(
            'sample_idx')
        if not isinstance(index, SeededIndex):
            raise ValueError(
                f'train_dataloader.dataset.type={type(dataset).__name__} '
                'loses the seed of a sample. It can be trained with '
                "sampler.type='DefaultSampler' and without SeedSample, but "
                'not be resumed inside an epoch.')


def _seeds_samples(dataset: Any) -> bool:
    """Whether each pipeline begins with SeedSample."""
    pipelines = pipelines_of(dataset)
    return bool(pipelines) and all(
        transforms and isinstance(transforms[0], SeedSample)
        for transforms in pipelines)
