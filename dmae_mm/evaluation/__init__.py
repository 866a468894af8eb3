from .feature_cache import cached_features
from .feature_model import FeatureModel, image_size
from .probe import (POOLINGS, check_scikit_learn, extract_features,
                    knn_accuracy, linear_probe_accuracy)
from .probe_data import batches, check_readable, check_splits, labelled_images

__all__ = [
    'FeatureModel', 'POOLINGS', 'batches', 'cached_features', 'check_readable',
    'check_scikit_learn', 'check_splits', 'extract_features', 'image_size',
    'knn_accuracy', 'labelled_images', 'linear_probe_accuracy'
]
