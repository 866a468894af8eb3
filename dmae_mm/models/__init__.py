from .distilled_image_classifier import DistilledImageClassifier
from .dmae import DMAE
from .losses import FeatureAlignmentLoss, LogitDistillationLoss
from .necks import FeatureProjectionNeck, SimpleFeaturePyramid
from .teachers import (BaseTeacher, ClassifierTeacher, FrozenTeacher,
                       MMPretrainTeacher, TimmTeacher)
from .windowed_vit import WindowedViT

__all__ = [
    'DMAE', 'BaseTeacher', 'ClassifierTeacher', 'DistilledImageClassifier',
    'FeatureAlignmentLoss', 'FeatureProjectionNeck', 'FrozenTeacher',
    'LogitDistillationLoss', 'MMPretrainTeacher', 'SimpleFeaturePyramid',
    'TimmTeacher', 'WindowedViT'
]
