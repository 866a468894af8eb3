from .feature_projection_neck import FeatureProjectionNeck

__all__ = ['FeatureProjectionNeck']
