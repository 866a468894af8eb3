from .feature_alignment_loss import FeatureAlignmentLoss

__all__ = ['FeatureAlignmentLoss']
