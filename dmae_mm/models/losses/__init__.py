from .feature_alignment_loss import FeatureAlignmentLoss
from .feature_loss import FeatureLoss
from .logit_distillation_loss import LogitDistillationLoss
from .masked_feature_loss import MaskedFeatureLoss
from .qkv_relation_loss import QKVRelationLoss
from .teacher_dropping import teacher_dropping
from .token_relation_loss import TokenRelationLoss

__all__ = [
    'FeatureAlignmentLoss', 'FeatureLoss', 'LogitDistillationLoss',
    'MaskedFeatureLoss', 'QKVRelationLoss', 'TokenRelationLoss',
    'teacher_dropping'
]
