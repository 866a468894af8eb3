"""What the command lines of the tools that evaluate have in common."""
import argparse
from typing import Any, Callable, List, Optional

from dmae_mm.host import ConfigOptions

from dmae_mm.weights.safe_load import never_unpickle


def at_least(least: int) -> Callable[[str], int]:
    """Type of an option that is an int of at least some value."""

    def integer(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f'{text} is not at least {least}')
        return int(text)

    return integer


_OPTIONS = {
    '--crop-pct':
    dict(
        type=float,
        default=0.875,
        metavar='PART',
        help='part of the shorter side that the central crop keeps; defaults '
        'to 0.875: 224 of 256 pixels'),
    '--value-range':
    dict(
        type=float,
        nargs=2,
        metavar=('LOW', 'HIGH'),
        help='values in the files that become 0 and 255, such as 0 4095 for '
        "12 bits; defaults to that of LoadImageOrSkip in the config's "
        'train_dataloader'),
    '--num-workers':
    dict(
        type=at_least(0),
        default=2,
        help='processes that read images; defaults to 2'),
    '--device':
    dict(help="defaults to 'cuda' where there is one, or 'cpu'"),
    '--cfg-options':
    dict(
        nargs='+',
        action=ConfigOptions,
        default={},
        metavar='KEY=VALUE',
        help='change the config, for example model.teacher.checkpoint=PATH'),
}


def new_parser(text: str, *options: str) -> argparse.ArgumentParser:
    """A parser with some of the options that several tools have.

    Args:
        text (str): What the help begins with.
        *options (str): Of '--crop-pct', '--value-range', '--num-workers',
            '--device' and '--cfg-options'.

    Returns:
        argparse.ArgumentParser: The parser.
    """
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in options:
        parser.add_argument(option, **_OPTIONS[option])
    return parser


def run(parser: argparse.ArgumentParser, argv: Optional[List[str]],
        tool: Callable[[argparse.Namespace], Any]) -> None:
    """Call a tool with what the command line says; its errors end it."""
    args = parser.parse_args(argv)
    try:
        with never_unpickle():
            tool(args)
    except (ImportError, OSError, ValueError) as error:
        parser.error(str(error))
