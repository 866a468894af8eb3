from .hooks import TeacherHook
from .loops import ResumableTrainLoop
from .optimizers import BackboneLayerDecayConstructor
from .strategies import FullyShardedStrategy

__all__ = [
    'BackboneLayerDecayConstructor', 'FullyShardedStrategy',
    'ResumableTrainLoop', 'TeacherHook'
]
