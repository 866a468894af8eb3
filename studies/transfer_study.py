"""Does pre-training help another task? Digits to be found in photographs.

The same small vision transformer is trained for semantic segmentation by
mmseg, for the same number of steps, from random weights and from the quick
start's students, after plain MAE and after DMAE, all of it for three seeds.
The students of a seed come from `make quickstart SEED=n`. The table is printed
and written as Markdown.
"""
import os
import os.path as osp
import shlex
import sys
import time
from typing import Dict, Tuple

# A clone runs its own code, installed or not: see train.py.
sys.path.insert(0, osp.dirname(osp.dirname(osp.abspath(__file__))))

import dmae_mm  # noqa: E402, F401  First: it checks its hosts.
import cv2  # noqa: E402
import mmseg  # noqa: E402
import numpy as np  # noqa: E402
from dmae_mm.evaluation.digits import train, write_digits  # noqa: E402
from mmengine.config import Config  # noqa: E402
from sklearn.datasets import load_sample_images  # noqa: E402
from studies.seeds import (command_line, interval,  # noqa: E402
                           one_thread_each, parse, prepare, table, versions)
from studies.study_jobs import CONFIGS  # noqa: E402

OUT_DIR = osp.join('work_dirs', 'transfer_study')
STARTS = dict(random='random', mae='plain MAE', dmae='DMAE')
SIZE, DIGIT = 48, 32  # sides, in pixels
NUM_IMAGES = dict(train=640, test=200)

PAGE = """# Transfer to segmentation in the small

Written by `{command}`
with {versions}.

Semantic segmentation of a handwritten digit on a photograph: 640 images to
train on, 200 to test on, 48 px, with other digits on the photographs' other
halves. The quick start's student (4 blocks of 48 channels) with a linear head
learns for {epochs} epochs, all weights trained, from random weights or from
those that pre-training on the training digits left. The time of pre-training
is not counted. The config is
`configs/digits/vit-student_segmentation_digits.py`.

mIoU on the test images after the last epoch, in percent, over ten digits and
the rest: {means}. A seed decides the order of the images, the initial weights
and the pre-trained student; the images are the same.
{recipe}
{table}
"""


def write_images(folder: str, digits_dir: str) -> None:
    """Write images and label maps, the same on each machine.

    Training images have training digits on the left halves of photographs,
    test images have test digits on the right halves.

    Args:
        folder (str): Where to write ``images`` and ``annotations``. Left as
            it is if complete.
        digits_dir (str): Folder of the digits, with ``train`` and ``test``.
    """
    if osp.isfile(osp.join(folder, 'complete')):
        return
    photos = load_sample_images().images
    middle = photos[0].shape[1] // 2
    for split, half, seed in (('train', np.s_[:, :middle], 0),
                              ('test', np.s_[:, middle:], 1)):
        digits = sorted(
            (number, entry.path) for number in range(10)
            for entry in os.scandir(osp.join(digits_dir, split, str(number))))
        rng = np.random.default_rng(seed)
        for kind in ('images', 'annotations'):
            os.makedirs(osp.join(folder, kind, split), exist_ok=True)
        for i, chosen in enumerate(
                rng.choice(len(digits), NUM_IMAGES[split], replace=False)):
            number, path = digits[chosen]
            image, around = draw(photos[i % len(photos)][half],
                                 cv2.imread(path, cv2.IMREAD_GRAYSCALE), rng)
            name = f'{i:04}.png'
            cv2.imwrite(osp.join(folder, 'images', split, name), image)
            cv2.imwrite(
                osp.join(folder, 'annotations', split, name),
                np.uint8(around * (number + 1)))
    open(osp.join(folder, 'complete'), 'w').close()


def draw(photo: np.ndarray, digit: np.ndarray,
         rng: np.random.Generator) -> Tuple[np.ndarray, np.ndarray]:
    """A digit somewhere on a darkened part of a photograph.

    Args:
        photo (np.ndarray): (H, W, 3), uint8.
        digit (np.ndarray): (32, 32), uint8, bright strokes on black.
        rng (np.random.Generator): What decides.

    Returns:
        tuple: The image, (48, 48, 3), uint8, and what belongs to the digit,
        its strokes and 2 px around them, (48, 48), bool.
    """
    height, width = photo.shape[:2]
    side = int(rng.integers(SIZE, 3 * SIZE))
    top, left = rng.integers(height - side), rng.integers(width - side)
    image = cv2.resize(
        photo[top:top + side, left:left + side], (SIZE, SIZE),
        interpolation=cv2.INTER_AREA) // 2
    top, left = rng.integers(SIZE - DIGIT + 1, size=2)
    strokes = np.zeros((SIZE, SIZE), np.uint8)
    strokes[top:top + DIGIT, left:left + DIGIT] = digit
    around = cv2.dilate(strokes, np.ones((5, 5), np.uint8)) > 127
    return np.maximum(image, strokes[..., None]), around


def load_config(start: str, seed: int, options: dict) -> Config:
    """The config of one training, from one of ``STARTS``.

    Raises:
        FileNotFoundError: If there is no such student.
    """
    cfg = Config.fromfile(
        osp.join(CONFIGS, 'vit-student_segmentation_digits.py'))
    prepare(cfg, osp.join(OUT_DIR, f'seed{seed}', start), seed)
    # A process keeps these by name.
    cfg.experiment_name = cfg.visualizer.name = f'{start}_seed{seed}'
    backbone = cfg.model.backbone
    if start == 'random':  # as pre-training begins
        backbone.init_cfg = Config.fromfile(
            osp.join(CONFIGS, 'vit-student_mae_digits.py')).init_cfg
    else:
        path = osp.join('work_dirs', 'quickstart', f'seed{seed}', start,
                        'epoch_20.pth')
        if not osp.isfile(path):
            raise FileNotFoundError(
                f'there is no student {path}: `make quickstart SEED={seed}` '
                f'trains those of seed {seed}')
        backbone.init_cfg.checkpoint = path
    cfg.merge_from_dict(options)
    return cfg


def final_miou(cfg: Config) -> float:
    """Train, and return the mIoU after the last epoch, in percent."""
    start = time.time()
    runner = train(cfg)
    miou = float(runner.message_hub.get_scalar('val/mIoU').current())
    print(
        f'{cfg.experiment_name:14} mIoU {miou:6.2f}  '
        f'{time.time() - start:4.0f} s',
        flush=True)
    return miou


def result_table(mious: Dict[str, np.ndarray]) -> str:
    """Rows of starts and of their differences, in Markdown."""
    rows = {name: mious[start] for start, name in STARTS.items()}
    for other in ('random', 'mae'):
        rows[f'DMAE - {STARTS[other]}'] = mious['dmae'] - mious[other]
    cells = []
    for name, values in rows.items():
        sign = '+' * (' - ' in name)
        cells.append([
            name,
            interval(values, sign), *(f'{value:{sign}.2f}' for value in values)
        ])
    seeds = [f'seed {seed}' for seed in range(len(mious['dmae']))]
    return table(['initial weights', 'mIoU', *seeds], cells)


def main() -> None:
    parser = command_line(__doc__, seeds=3)
    parser.add_argument(
        '--page',
        default=osp.join(OUT_DIR, 'results.md'),
        help='file to write; defaults to %(default)s')
    args = parse(parser)
    keys = [(start, seed) for seed in range(args.seeds) for start in STARTS]
    try:
        cfgs = [load_config(*key, args.cfg_options) for key in keys]
    except (FileNotFoundError, KeyError, TypeError) as error:
        sys.exit(f'error: {error}')
    write_images(osp.join(OUT_DIR, 'data'), write_digits())
    begin = time.time()
    with one_thread_each(args.processes) as pool:
        found = dict(zip(keys, pool.map(final_miou, cfgs)))
    mious = {
        start: np.array([found[start, seed] for seed in range(args.seeds)])
        for start in STARTS
    }
    result = result_table(mious)
    page = PAGE.format(
        command='python ' + shlex.join(sys.argv),
        versions=', '.join(
            f'{name} {version}' for name, version in dict(
                versions(), mmseg=mmseg.__version__).items()),
        epochs=cfgs[0].train_cfg.max_epochs,
        means="mean ± half of the 95% interval (Student's t) over the seeds"
        if args.seeds > 1 else 'of one seed',
        recipe='\n**Options of the command changed the config.**\n'
        if args.cfg_options else '',
        table=result)
    os.makedirs(osp.dirname(osp.abspath(args.page)), exist_ok=True)
    with open(args.page, 'w') as file:
        file.write(page)
    minutes = (time.time() - begin) / 60
    print(f'{result}\n{minutes:.0f} minutes. {args.page}')


if __name__ == '__main__':
    main()
