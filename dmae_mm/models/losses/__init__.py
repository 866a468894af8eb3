from .feature_alignment_loss import FeatureAlignmentLoss
from .logit_distillation_loss import LogitDistillationLoss

__all__ = ['FeatureAlignmentLoss', 'LogitDistillationLoss']
