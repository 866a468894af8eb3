from .distilled_image_classifier import DistilledImageClassifier
from .dmae import DMAE
from .losses import FeatureAlignmentLoss, LogitDistillationLoss
from .necks import FeatureProjectionNeck
from .teachers import (BaseTeacher, ClassifierTeacher, FrozenTeacher,
                       MMPretrainTeacher, TimmTeacher)

__all__ = [
    'DMAE', 'BaseTeacher', 'ClassifierTeacher', 'DistilledImageClassifier',
    'FeatureAlignmentLoss', 'FeatureProjectionNeck', 'FrozenTeacher',
    'LogitDistillationLoss', 'MMPretrainTeacher', 'TimmTeacher'
]
