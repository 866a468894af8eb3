"""What --check says of the image files of a data set."""
import os.path as osp
import time
from typing import Any, Dict, Tuple

from mmpretrain.datasets import CustomDataset

from dmae_mm.datasets import BadImageError, ShardDataset
from dmae_mm.datasets.folders import count_endings, listed_endings
from dmae_mm.datasets.pipelines import loader_of, parts_of
from dmae_mm.evaluation.images import evenly_spread

# How many files are decoded, and how long that may take.
MAX_FILES, MAX_SECONDS = 1000, 5.0


def image_files(dataset: Any) -> Tuple[str, Dict[str, str]]:
    """Count the files of a data set, and decode some or all of them.

    Args:
        dataset: The data set, which may wrap or concatenate others.

    Returns:
        tuple[str, dict[str, str]]: A line for a person, '' if nothing is
        known; and path and reason of the broken ones that were found.
    """
    lines, broken = [], {}
    for part in parts_of(dataset):
        said = [_counted(part)] if _is_folder(part) else []
        loader = loader_of(part)
        if loader is not None and hasattr(part, 'get_data_info'):
            found, decoded = _decoded(part, loader)
            broken.update(found)
            said.append(f'{decoded} of {len(part)} images decoded, '
                        f'{len(found)} broken')
        lines += ['; '.join(said)] * bool(said)
    return '. '.join(lines), broken


def _is_folder(part: Any) -> bool:
    return (isinstance(part, CustomDataset) and not part.ann_file
            and osp.isdir(part.img_prefix))


def _counted(part: CustomDataset) -> str:
    endings = count_endings(part.img_prefix)
    total, used = sum(endings.values()), len(part)
    ignored = listed_endings(
        {ending: count for ending, count in endings.items()
         if not part.is_valid_file(ending)})
    listed = f' ({ignored})' * bool(ignored)
    return (f'{osp.normpath(part.img_prefix)}: {total} files, {used} used, '
            f'{total - used} ignored{listed}')


def _decoded(part: Any, loader: Any) -> Tuple[Dict[str, str], int]:
    """Broken files, and how many were decoded."""
    broken, decoded, began = {}, 0, time.perf_counter()
    for index in evenly_spread(len(part), MAX_FILES):
        path = part.get_data_info(index).get('img_path')
        if path is None:
            break
        data = part.data_list.read(index) if isinstance(
            part, ShardDataset) else None
        try:
            loader.load(path, data)
        except BadImageError as error:
            broken[path] = str(error)
        decoded += 1
        if time.perf_counter() - began > MAX_SECONDS:
            break
    return broken, decoded
