from .data_preprocessor import ChannelsDataPreprocessor
from .distillation import Distillation
from .distilled_image_classifier import DistilledImageClassifier
from .dmae import DMAE
from .losses import FeatureAlignmentLoss, LogitDistillationLoss
from .necks import FeatureProjectionNeck, SimpleFeaturePyramid
from .students import MaskedTimmViT
from .teachers import (ClassifierTeacher, MMPretrainTeacher, Teacher,
                       TimmTeacher)
from .timm_vit import TimmViT
from .windowed_vit import WindowedViT

__all__ = [
    'DMAE', 'ChannelsDataPreprocessor', 'ClassifierTeacher', 'Distillation',
    'DistilledImageClassifier', 'FeatureAlignmentLoss',
    'FeatureProjectionNeck', 'LogitDistillationLoss', 'MMPretrainTeacher',
    'MaskedTimmViT', 'SimpleFeaturePyramid', 'Teacher', 'TimmTeacher',
    'TimmViT', 'WindowedViT'
]
