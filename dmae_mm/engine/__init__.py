from .hooks import TeacherHook
from .optimizers import BackboneLayerDecayConstructor
from .resumable_train_loop import ResumableTrainLoop
from .strategies import FullyShardedStrategy

__all__ = [
    'BackboneLayerDecayConstructor', 'FullyShardedStrategy',
    'ResumableTrainLoop', 'TeacherHook'
]
