"""DMAE for mmpretrain: importing this package registers all of it."""
import warnings

from .host_packages import check_host_packages, import_models
from .version import __version__

with warnings.catch_warnings():
    # mmcv's, about compiled operators that nothing here needs.
    warnings.filterwarnings(
        'ignore', message='.*MultiScaleDeformableAttention.*')
    check_host_packages()

    from mmengine.logging import MMLogger

    def _matters(record) -> bool:
        # mmdet's, about an operator of lane detection; mmpretrain imports it.
        return not record.getMessage().startswith('Line NMS is not compiled')

    MMLogger.get_current_instance().addFilter(_matters)
    import_models()

    from . import datasets, engine, models  # noqa: F401
    from .host import register_configs
    from .weights.host_loader import register_loader

    register_configs()
    register_loader()
    MMLogger.get_current_instance().removeFilter(_matters)

__all__ = ['__version__', 'distill']


def __getattr__(name: str):
    # A config that imports this package to be trained needs none of it.
    if name == 'distill':
        from .workflow.distill import distill
        return distill
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
