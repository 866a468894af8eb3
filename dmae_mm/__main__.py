"""``python -m dmae_mm distill ...``: tools/distill.py, also from a wheel.

A console script, which would be shorter, hides the package from `mim`: see
setup.py.
"""
import sys

from dmae_mm.workflow.distill_command import main

_COMMANDS = dict(distill=main)


def run(argv: list) -> None:
    """Run a command line without the name of the program."""
    if not argv or argv[0] not in _COMMANDS:
        asked = argv[:1] in (['-h'], ['--help'])
        print(
            f'usage: python -m dmae_mm {{{",".join(_COMMANDS)}}} ...\n'
            'python -m dmae_mm distill --help says more.',
            file=sys.stdout if asked else sys.stderr)
        sys.exit(0 if asked else 2)
    _COMMANDS[argv[0]](argv[1:], prog=f'python -m dmae_mm {argv[0]}')


if __name__ == '__main__':
    run(sys.argv[1:])
