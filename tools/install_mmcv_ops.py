"""Install mmcv with its compiled ops, which mmdet needs, beside this Python.

mmcv's wheel has no ops (``mmcv._ext``). They are compiled once for each
version of mmcv, PyTorch and Python, and kept outside the checkout, so that
another environment of the same versions gets them in seconds.
"""
import argparse
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Optional

MMCV = 'onedl-mmcv'


def cache_folder() -> Path:
    """Where the wheel for these versions is kept."""
    home = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    versions = '-'.join([
        f'mmcv{importlib.metadata.version(MMCV)}',
        f'torch{importlib.metadata.version("torch")}',
        sys.implementation.cache_tag, os.uname().machine
    ])
    return Path(home, 'dmae_mm', versions)


def has_ops() -> bool:
    """Whether mmcv's ops can be loaded; in a process of its own, because the
    answer changes and a module stays imported."""
    return subprocess.run([sys.executable, '-c', 'import mmcv._ext'],
                          capture_output=True).returncode == 0


def build(folder: Path) -> Path:
    """Compile the ops and put the wheel into ``folder``.

    Returns:
        Path: The wheel.

    Raises:
        SystemExit: If it could not be compiled; pip has said why.
    """
    version = importlib.metadata.version(MMCV)
    print(
        f'Compiling the ops of mmcv {version}: 6 to 12 minutes on two cores, '
        f'only this time. They are kept in {folder}',
        flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    # On the same file system, so that the wheel appears at once or not at all.
    with tempfile.TemporaryDirectory(dir=folder) as unfinished:
        pip('install', 'ninja', 'psutil', 'setuptools', 'wheel')
        # Without the cache: pip would return the wheel without ops, which has
        # the same name. Without isolation: it is compiled for this PyTorch.
        pip('wheel', '--no-deps', '--no-build-isolation', '--no-cache-dir',
            '--no-binary', MMCV, '--wheel-dir', unfinished,
            f'{MMCV}=={version}',
            env=dict(
                os.environ,
                MMCV_WITH_OPS='1',
                # Without debug symbols: smaller and faster.
                CFLAGS='-g0 ' + os.environ.get('CFLAGS', '')))
        wheel, = Path(unfinished).glob('*.whl')
        return Path(shutil.move(wheel, folder / wheel.name))


def pip(*arguments: str, env: Optional[dict] = None) -> None:
    constraints = Path(__file__).parent.parent / 'constraints.txt'
    command = [
        sys.executable, '-m', 'pip', arguments[0], '-c',
        str(constraints), *arguments[1:]
    ]
    if subprocess.run(command, env=env).returncode:
        sys.exit(f'This failed, and pip said why above: {" ".join(command)}')


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    if importlib.util.find_spec('mmcv') is None:
        sys.exit(f'{sys.executable} has no mmcv. Install dmae_mm with its '
                 'extra first: pip install -c constraints.txt -e ".[mm]"')
    if has_ops():
        print('mmcv has its compiled ops')
        return
    folder = cache_folder()
    wheels = sorted(folder.glob('*.whl'))
    wheel = wheels[0] if wheels else build(folder)
    pip('install', '--no-deps', '--force-reinstall', str(wheel))
    if not has_ops():
        sys.exit(f'The ops in {wheel} cannot be loaded: python -c "import '
                 'mmcv._ext" says why. Delete that file to compile them anew.')


if __name__ == '__main__':
    main()
