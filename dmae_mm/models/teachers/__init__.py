from .base import BaseTeacher
from .mmpretrain_teacher import MMPretrainTeacher

__all__ = ['BaseTeacher', 'MMPretrainTeacher']
