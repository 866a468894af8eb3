from typing import List, Sequence

from mmengine.fileio import get_file_backend, list_from_file
from mmpretrain.datasets import CustomDataset
from mmpretrain.registry import DATASETS

from dmae_mm.messages import first_few
from dmae_mm.options import reject_unknown_options

from .folders import EXTENSIONS, check_class_folders


@DATASETS.register_module()
@reject_unknown_options
class ImageSubset(CustomDataset):
    """Those images of a folder of class folders that a list names.

    ``tools/make_subset.py`` writes such lists, in mmpretrain's format: a line
    ``class_folder/image.jpg LABEL`` for each image. The class folders on the
    disk, not the list, say how many classes there are and which number each
    has, so that labels are those of the whole data set. mmpretrain's own data
    sets read such a list unchecked; this one refuses a list that does not fit
    the folder.

    Args:
        ann_file (str): The list. A relative path starts at ``data_root``.
        data_root (str): Defaults to '', the current folder.
        data_prefix (str): The folder of the class folders, seen from
            ``data_root``. Defaults to '', which is ``data_root`` itself.
        pipeline (Sequence[dict]): mmpretrain's transforms. Defaults to ().
        lazy_init (bool): Read the list later, by ``full_init()``. Defaults
            to False.

    Raises:
        FileNotFoundError: If there is no such folder or no such list.
        ValueError: If the list is empty, has malformed lines, names a file
            twice or one that does not exist, or gives a label that is not
            that of the class folder.
    """

    def __init__(self,
                 ann_file: str,
                 data_root: str = '',
                 data_prefix: str = '',
                 pipeline: Sequence[dict] = (),
                 lazy_init: bool = False) -> None:
        super().__init__(
            data_root=data_root,
            data_prefix=data_prefix,
            ann_file=ann_file,
            extensions=EXTENSIONS,
            pipeline=pipeline,
            lazy_init=lazy_init)

    def load_data_list(self) -> List[dict]:
        """Check the list before it is read.

        Returns:
            list[dict]: Path (``img_path``) and label (``gt_label``) of each
            image, in the order of the list.
        """
        classes = check_class_folders(self.img_prefix)
        self._metainfo['classes'] = tuple(classes)
        if not get_file_backend(self.ann_file).isfile(self.ann_file):
            raise FileNotFoundError(
                f'There is no list {self.ann_file!r}. Write it, for example '
                'with 1 percent of the images: python tools/make_subset.py '
                f'{self.img_prefix} {self.ann_file} --percent 1')
        self._check_lines(list_from_file(self.ann_file), classes)
        return super().load_data_list()

    def _check_lines(self, lines: Sequence[str],
                     classes: Sequence[str]) -> None:
        labels = {name: str(label) for label, name in enumerate(classes)}
        samples = [line.strip().rsplit(' ', 1) for line in lines]
        self._refuse(
            'are not of the form "class_folder/image.jpg LABEL"',
            [line for line, sample in zip(lines, samples) if len(sample) != 2])
        self._refuse(
            f'have a label that is not that of their class folder, 0 to '
            f'{len(classes) - 1} in alphabetical order',
            [
                line for line, (name, label) in zip(lines, samples)
                if label != labels.get(name.split('/')[0])
            ])
        seen = set()
        self._refuse('name an image that was named before', [
            line for line, (name, _) in zip(lines, samples)
            if name in seen or seen.add(name)
        ])
        backend = get_file_backend(self.img_prefix)
        self._refuse('name a file that does not exist', [
            line for line, (name, _) in zip(lines, samples)
            if not backend.isfile(backend.join_path(self.img_prefix, name))
        ])
        if not lines:
            raise ValueError(f'The list {self.ann_file!r} is empty.')

    def _refuse(self, problem: str, wrong: Sequence[str]) -> None:
        if wrong:
            raise ValueError(
                f'{len(wrong)} lines of {self.ann_file!r} {problem}: '
                f'{first_few(list(map(repr, wrong)), 3)}. The list does not '
                f'belong to the folder {self.img_prefix!r}, or was changed: '
                'write it anew with tools/make_subset.py.')
