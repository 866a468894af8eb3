from .phi_standardize import PHIStandardize
from .standardize import Standardize

__all__ = ['PHIStandardize', 'Standardize']
