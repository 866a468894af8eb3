"""Labelled images of `--labels`: which to learn from, which to classify."""
import os.path as osp
from dataclasses import dataclass
from typing import Dict, List, Optional

from dmae_mm.datasets import class_images, write_list
from dmae_mm.evaluation import check_scikit_learn
from dmae_mm.messages import first_few

NEIGHBOURS = 5
# Folders of the two parts, where there are some; what validates also does.
PARTS = dict(train=('train', ), test=('test', 'val'))


@dataclass(frozen=True)
class LabelledImages:
    """Labelled images, in two parts.

    Attributes:
        folders (dict[str, str]): Of the parts, 'train' to learn from and
            'test' to classify; one sub-folder a class.
        lines (dict[str, list[str]]): ``path LABEL`` of the images that each
            part takes of its folder; {} where each takes all.
        neighbours (int): k of the nearest neighbours.
        note (str): A sentence on it for a person.
    """
    folders: Dict[str, str]
    lines: Dict[str, List[str]]
    neighbours: int
    note: str

    @classmethod
    def of(cls, folder: str) -> 'LabelledImages':
        """Those under a folder. Only names of files are looked at.

        A folder with ``train/`` and ``test/``, or ``val/``, is divided
        already. Of any other, every second image of each class, in the order
        of their names, is classified.

        Raises:
            ImportError: If scikit-learn is not installed.
            FileNotFoundError: If there is no such folder.
            ValueError: If the images have no labels, or are too few.
        """
        try:
            check_scikit_learn()
            folders = {
                part: path for part, names in PARTS.items()
                for path in (osp.join(folder, name) for name in names[::-1])
                if osp.isdir(path)
            }
            return cls._divided(folders) if len(folders) == 2 else (
                cls._halved(folder))
        except (ImportError, OSError, ValueError) as error:
            raise type(error)(f'--labels: {error}') from None

    @classmethod
    def _divided(cls, folders: Dict[str, str]) -> 'LabelledImages':
        names, counts = {}, {}
        for part, folder in folders.items():
            images = class_images(folder).values()
            names[part] = {paths[0].split('/')[0] for paths in images}
            counts[part] = sum(map(len, images))
        odd = sorted(names['train'] ^ names['test'])
        if odd:
            raise ValueError(f'{folders["train"]} and {folders["test"]} need '
                             'the same class folders, and only one has '
                             f'{first_few(odd)}.')
        return cls(
            folders, {}, min(NEIGHBOURS, counts['train']),
            f'{counts["train"]} images of {len(names["train"])} classes to '
            f'learn from ({folders["train"]}), {counts["test"]} to classify '
            f'({folders["test"]}).')

    @classmethod
    def _halved(cls, folder: str) -> 'LabelledImages':
        images = class_images(folder)
        alone = [paths[0] for paths in images.values() if len(paths) == 1]
        if alone:
            raise ValueError(
                f'{folder} has no train/ and test/, so that half of each '
                'class is classified; but of a class there is only '
                f'{first_few(alone)}. Add images.')
        lines = {
            part: [f'{path} {label}' for label, paths in images.items()
                   for path in sorted(paths)[first::2]]
            for first, part in enumerate(PARTS)
        }
        train, test = map(len, lines.values())
        return cls(
            dict.fromkeys(PARTS, folder), lines, min(NEIGHBOURS, train),
            f'{train} images of {len(images)} classes to learn from and '
            f'{test} to classify: {folder} has no train/ and test/, so every '
            'second image of each class is classified.')

    def write_lists(self, folder: str) -> Dict[str, Optional[str]]:
        """Write what each part takes.

        Args:
            folder (str): For ``labels_train.txt`` and ``labels_test.txt``.

        Returns:
            dict[str, str | None]: Their paths; None for a part that takes
            all of its folder.
        """
        paths = dict.fromkeys(PARTS)
        for part, lines in self.lines.items():
            paths[part] = osp.join(folder, f'labels_{part}.txt')
            write_list(paths[part], lines, force=True)
        return paths
