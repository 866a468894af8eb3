from .hooks import EpochSeedHook, TeacherHook
from .optimizers import BackboneLayerDecayConstructor

__all__ = ['BackboneLayerDecayConstructor', 'EpochSeedHook', 'TeacherHook']
