"""What happens between the command line and the first training step."""
from .complete_config import complete_config, unknown_arguments
from .cpu import NO_AMP, adapt_to_cpu
from .explain import explain
from .missing_files import missing_files
from .platform_notes import adapt_to_platform
from .preflight import preflight
from .processes import LAUNCHER_VARIABLES, choose_port
from .recipe_length import set_epochs
from .start import start
from .static_problems import crop_size, static_problems, together

__all__ = [
    'LAUNCHER_VARIABLES', 'NO_AMP', 'adapt_to_cpu', 'adapt_to_platform',
    'choose_port', 'complete_config', 'crop_size', 'explain', 'missing_files',
    'preflight', 'set_epochs', 'start', 'static_problems', 'together',
    'unknown_arguments'
]
