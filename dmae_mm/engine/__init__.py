from .hooks import EpochSeedHook, TeacherHook
from .optimizers import BackboneLayerDecayConstructor
from .strategies import FullyShardedStrategy

__all__ = [
    'BackboneLayerDecayConstructor', 'EpochSeedHook', 'FullyShardedStrategy',
    'TeacherHook'
]
