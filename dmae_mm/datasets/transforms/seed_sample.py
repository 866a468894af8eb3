from mmcv.transforms import BaseTransform
from mmpretrain.registry import TRANSFORMS

from dmae_mm.datasets.seeds import SeededIndex, seed_sample
from dmae_mm.options import reject_unknown_options


@TRANSFORMS.register_module()
@reject_unknown_options
class SeedSample(BaseTransform):
    """Seeds what the following transforms draw for a sample.

    First in a training pipeline. ``random``, ``numpy.random`` and PyTorch
    are seeded from the ``SeededIndex`` that ``SeededSampler`` gave the
    sample. A sample without one (taken by hand, or instead of one that
    cannot be read) draws from the generators as they are;
    ``ExactResumeHook`` refuses a training without ``SeededSampler``.

    Required key: ``sample_idx``. No key is changed.
    """

    def transform(self, results: dict) -> dict:
        """Seed the generators.

        Args:
            results (dict): The sample.

        Returns:
            dict: The same.
        """
        index = results.get('sample_idx')
        if isinstance(index, SeededIndex):
            seed_sample(index.seed)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'
