from .feature_model import FeatureModel
from .features import POOLINGS, extract_features
from .probe import (ProbedModel, check_scikit_learn, check_splits,
                    knn_accuracy, linear_probe_accuracy, probe_checkpoint,
                    probe_models)

__all__ = [
    'FeatureModel', 'POOLINGS', 'ProbedModel', 'check_scikit_learn',
    'check_splits', 'extract_features', 'knn_accuracy',
    'linear_probe_accuracy', 'probe_checkpoint', 'probe_models'
]
