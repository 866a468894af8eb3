from .base import BaseTeacher
from .mmpretrain_teacher import MMPretrainTeacher
from .timm_teacher import TimmTeacher

__all__ = ['BaseTeacher', 'MMPretrainTeacher', 'TimmTeacher']
