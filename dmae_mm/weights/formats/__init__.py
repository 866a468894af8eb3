"""Files of other libraries, under the names of timm."""
from .described_folder import described_folder
from .format import Format, TranslatedFile
from .translate import translate
from .what_it_is import what_it_is

__all__ = [
    'Format', 'TranslatedFile', 'described_folder', 'translate', 'what_it_is'
]
