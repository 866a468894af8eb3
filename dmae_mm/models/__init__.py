from .data_preprocessor import ChannelsDataPreprocessor
from .distillation import Distillation
from .distilled_image_classifier import DistilledImageClassifier
from .dmae import DMAE
from .feature_distiller import FeatureDistiller
from .losses import (FeatureAlignmentLoss, LogitDistillationLoss,
                     MaskedFeatureLoss, QKVRelationLoss, TokenRelationLoss)
from .necks import (FeatureGenerationNeck, FeatureProjectionNeck,
                    SimpleFeaturePyramid)
from .targets import PHIStandardize, Standardize
from .teachers import (ClassifierTeacher, MAETeacher, MMPretrainTeacher,
                       Teacher, TimmTeacher)
from .windowed_vit import WindowedViT

__all__ = [
    'DMAE', 'ChannelsDataPreprocessor', 'ClassifierTeacher', 'Distillation',
    'DistilledImageClassifier', 'FeatureDistiller', 'FeatureAlignmentLoss',
    'FeatureGenerationNeck', 'FeatureProjectionNeck', 'LogitDistillationLoss',
    'MAETeacher', 'MMPretrainTeacher', 'MaskedFeatureLoss', 'PHIStandardize',
    'QKVRelationLoss', 'SimpleFeaturePyramid', 'Standardize', 'Teacher',
    'TimmTeacher', 'TokenRelationLoss', 'WindowedViT'
]
