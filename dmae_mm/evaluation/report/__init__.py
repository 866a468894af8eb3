from .page import write_page
from .run import Run, short_names, what_is_wrong

__all__ = ['Run', 'short_names', 'what_is_wrong', 'write_page']
