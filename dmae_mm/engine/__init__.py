from .hooks import EpochSeedHook, TeacherHook

__all__ = ['EpochSeedHook', 'TeacherHook']
