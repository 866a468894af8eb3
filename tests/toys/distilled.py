"""Results of `distill` whose training need not be waited for."""
from pathlib import Path

import torch

from dmae_mm.workflow.arguments import Arguments
from dmae_mm.workflow.out_folder import OutFolder
from tests.toys.work_dirs import line, write_start

CONFIG = '''
train_dataloader = dict(dataset=dict(pipeline=[
    dict(type='RandomResizedCrop', scale=32)]))
'''


def write_checkpoint(folder, epoch: int, length: int) -> str:
    """What of a checkpoint tells how far a run is."""
    path = f'{folder}/epoch_{epoch}.pth'
    torch.save(
        dict(meta=dict(epoch=epoch, iter=5 * epoch,
                       cfg=f'train_cfg = dict(max_epochs={length})')), path)
    with open(f'{folder}/last_checkpoint', 'w') as file:
        file.write(path)
    return path


def finished_run(root: Path, epoch: int = 2, **more) -> dict:
    """The folder `out` in `root`, as after a training.

    Returns:
        dict: The arguments that `distill` was given.
    """
    given = dict(images=root / 'images', teacher='test_vit3', student='s',
                 out=root / 'out')
    given['images'].mkdir(exist_ok=True)
    folder = OutFolder(Arguments.checked(**given))
    folder.begin()
    folder.write_config(CONFIG)
    if not any((root / 'out').glob('2026*')):
        write_start(root / 'out', '20260101_000000', [line(5, 2.)])
    write_checkpoint(folder.path, epoch, epoch)
    return dict(given, **more)
