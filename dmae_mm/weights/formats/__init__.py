"""Files of other libraries, under the names of timm."""
from .described_folder import described_folder
from .format import Format, TranslatedFile
from .translate import translate

__all__ = ['Format', 'TranslatedFile', 'described_folder', 'translate']
