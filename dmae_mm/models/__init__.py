from .data_preprocessor import ChannelsDataPreprocessor
from .distillation import Distillation
from .distilled_image_classifier import DistilledImageClassifier
from .dmae import DMAE
from .feature_distiller import FeatureDistiller
from .losses import (FeatureAlignmentLoss, LogitDistillationLoss,
                     MaskedFeatureLoss, QKVRelationLoss, TokenRelationLoss)
from .necks import (FeatureGenerationNeck, FeatureProjectionNeck,
                    SimpleFeaturePyramid)
from .students import MaskedTimmViT
from .targets import PHIStandardize, Standardize
from .teachers import (ClassifierTeacher, MAETeacher, MMPretrainTeacher,
                       Teacher, TimmTeacher)
from .timm_vit import TimmViT
from .windowed_vit import WindowedViT

__all__ = [
    'DMAE', 'ChannelsDataPreprocessor', 'ClassifierTeacher', 'Distillation',
    'DistilledImageClassifier', 'FeatureDistiller', 'FeatureAlignmentLoss',
    'FeatureGenerationNeck', 'FeatureProjectionNeck', 'LogitDistillationLoss',
    'MAETeacher', 'MMPretrainTeacher', 'MaskedFeatureLoss', 'MaskedTimmViT',
    'PHIStandardize', 'QKVRelationLoss', 'SimpleFeaturePyramid', 'Standardize',
    'Teacher', 'TimmTeacher', 'TimmViT', 'TokenRelationLoss', 'WindowedViT'
]
