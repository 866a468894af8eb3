"""A folder of small photographs, and where a study of it lies."""
import cv2
import numpy as np

from studies.photograph_jobs import Setting


def write_photographs(folder, train=50, test=10, size=32, classes='ab'):
    """Noise of one colour a class, as PNG."""
    random = np.random.RandomState(0)
    for split, count in (('train', train), ('test', test)):
        for label, name in enumerate(classes):
            path = folder / split / name
            path.mkdir(parents=True)
            for index in range(count):
                image = random.randint(0, 128, (size, size, 3), np.uint8)
                image[..., label % 3] += 64
                cv2.imwrite(str(path / f'{index}.png'), image)


def setting(**options) -> Setting:
    return Setting(
        **dict(
            dict(
                data_dir='data/toy',
                out_dir='out',
                teacher_data='data/toy/all',
                teacher_dir='out/once'), **options))
