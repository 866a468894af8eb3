from .cross_attention_decoder import CrossAttentionDecoder
from .feature_generation_neck import FeatureGenerationNeck
from .feature_projection_neck import FeatureProjectionNeck
from .simple_feature_pyramid import SimpleFeaturePyramid

__all__ = [
    'CrossAttentionDecoder', 'FeatureGenerationNeck', 'FeatureProjectionNeck',
    'SimpleFeaturePyramid'
]
