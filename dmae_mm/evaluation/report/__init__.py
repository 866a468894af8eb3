from .page import write_page
from .run import Run, what_is_wrong

__all__ = ['Run', 'what_is_wrong', 'write_page']
