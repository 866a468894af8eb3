from .dmae import DMAE
from .losses import FeatureAlignmentLoss
from .necks import FeatureProjectionNeck
from .teachers import BaseTeacher, MMPretrainTeacher, TimmTeacher

__all__ = [
    'DMAE', 'BaseTeacher', 'FeatureAlignmentLoss', 'FeatureProjectionNeck',
    'MMPretrainTeacher', 'TimmTeacher'
]
