from .base import BaseTeacher
from .classifier_teacher import ClassifierTeacher
from .frozen_teacher import FrozenTeacher
from .mmpretrain_teacher import MMPretrainTeacher
from .timm_teacher import TimmTeacher

__all__ = [
    'BaseTeacher', 'ClassifierTeacher', 'FrozenTeacher', 'MMPretrainTeacher',
    'TimmTeacher'
]
