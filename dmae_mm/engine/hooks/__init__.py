from .epoch_seed_hook import EpochSeedHook
from .teacher_hook import TeacherHook

__all__ = ['EpochSeedHook', 'TeacherHook']
