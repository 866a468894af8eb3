from .features import POOLINGS, extract_features
from .probe import (check_scikit_learn, check_splits, knn_accuracy,
                    linear_probe_accuracy, probe_checkpoint)
from .trained_models import FeatureModel

__all__ = [
    'FeatureModel', 'POOLINGS', 'check_scikit_learn', 'check_splits',
    'extract_features', 'knn_accuracy', 'linear_probe_accuracy',
    'probe_checkpoint'
]
