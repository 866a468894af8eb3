"""Files of other libraries, under the names of timm."""
from .format import Format, TranslatedFile
from .translate import translate

__all__ = ['Format', 'TranslatedFile', 'translate']
