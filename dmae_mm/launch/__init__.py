"""What happens between the command line and the first training step."""
from .complete_config import complete_config
from .cpu import LAUNCHER_VARIABLES, adapt_to_cpu
from .explain import explain
from .missing_files import missing_files
from .preflight import preflight
from .start import start
from .static_problems import static_problems

__all__ = [
    'LAUNCHER_VARIABLES', 'adapt_to_cpu', 'complete_config', 'explain',
    'missing_files', 'preflight', 'start', 'static_problems'
]
