from .classifier_teacher import ClassifierTeacher
from .mae_teacher import MAETeacher
from .mmpretrain_teacher import MMPretrainTeacher
from .teacher import Teacher
from .timm_teacher import TimmTeacher

__all__ = [
    'ClassifierTeacher', 'MAETeacher', 'MMPretrainTeacher', 'Teacher',
    'TimmTeacher'
]
