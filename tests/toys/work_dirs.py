"""Work dirs as MMEngine leaves them, written by hand."""
import json

import cv2
import numpy as np

CONFIG = '''
model = dict(backbone=dict(mask_ratio={mask}, type='MAEViT'))
train_cfg = dict(max_epochs=3, type='EpochBasedTrainLoop')
train_dataloader = dict(batch_size=8)
work_dir = '{work_dir}'
'''
LOG = '''2026/01/01 00:00:00 - mmengine - INFO - \n{dashes}
System environment:
    Python: 3.11.7 (main) [GCC 12.2.0]
    PyTorch compiling details: PyTorch built with:
  - GCC 13.3

Runtime environment:
    seed: 5
    GPU number: 2
{dashes}
2026/01/01 00:00:01 - mmengine - INFO - Command: tools/train.py c.py{resumed}
2026/01/01 00:00:02 - mmengine - INFO - Epoch(train)   [1][ 5/10]  lr: 1.0
'''.replace('{dashes}', '-' * 60)


def line(iteration, loss, **more):
    return dict(lr=0.1, loss=loss, time=0.5, epoch=(iteration - 1) // 10 + 1,
                iter=iteration, step=iteration, **more)


def write_start(work_dir, stamp, lines, resumed=0, mask=0.75, pictures=()):
    """A folder as MMEngine leaves it: epochs of 10 iterations."""
    folder = work_dir / stamp
    (folder / 'vis_data' / 'vis_image').mkdir(parents=True)
    (folder / f'{stamp}.log').write_text(LOG.format(
        resumed=f'\n - INFO - resumed epoch: 1, iter: {resumed}'
        if resumed else ''))
    (folder / 'vis_data' / 'config.py').write_text(
        CONFIG.format(mask=mask, work_dir=work_dir.name))
    (folder / 'vis_data' / 'scalars.json').write_text(
        ''.join(json.dumps(one) + '\n' for one in lines))
    for name in pictures:
        write_png(folder / 'vis_data' / 'vis_image' / name, len(name))
    return folder


def write_png(path, side):
    rng = np.random.default_rng(side)
    cv2.imwrite(str(path), rng.integers(0, 255, (side, side, 3), np.uint8))


def write_killed(work_dir):
    """Killed after iteration 25, in the middle of a line; resumed from 10."""
    lines = [line(5, 9.), line(10, 8.), {'probe/knn': 50., 'step': 1},
             line(15, 7.), line(20, 6.), {'probe/knn': 60., 'step': 2},
             line(25, 5.)]
    folder = write_start(work_dir, '20260101_000000', lines,
                         pictures=('x_10.png', 'x_20.png'))
    with open(folder / 'vis_data' / 'scalars.json', 'a') as file:
        file.write('{"lr": 0.1, "lo')
    lines = [line(15, 6.5), line(20, 5.5), {'probe/knn': 61., 'step': 2},
             {'accuracy/top1': 70., 'mIoU': 3, 'data_time': 1., 'time': 2.,
              'step': 2},
             line(25, 4.5), line(30, float('nan'))]
    write_start(work_dir, '20260102_000000', lines, resumed=10,
                pictures=('x_20.png', 'x_30.png'))
    return work_dir
