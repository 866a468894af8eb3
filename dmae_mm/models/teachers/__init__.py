from .classifier_teacher import ClassifierTeacher
from .mmpretrain_teacher import MMPretrainTeacher
from .teacher import Teacher
from .timm_teacher import TimmTeacher

__all__ = ['ClassifierTeacher', 'MMPretrainTeacher', 'Teacher', 'TimmTeacher']
