"""Features are extracted once, and then read from the disk."""
import hashlib
import json
import os
import os.path as osp
import sys
import tempfile
from typing import Tuple

import numpy as np
import torch
from mmpretrain.datasets import CustomDataset
from rich.progress import track

from dmae_mm.weights import read_tensor_file, write_tensor_file

from .feature_model import FeatureModel
from .probe import extract_features
from .probe_data import batches, check_readable


def cached_features(model: FeatureModel,
                    dataset: CustomDataset,
                    pooling: str,
                    folder: str,
                    title: str,
                    batch_size: int = 128,
                    num_workers: int = 0) -> Tuple[np.ndarray, np.ndarray]:
    """Features of a data set, from a file if they are in one already.

    A file holds for one checkpoint (by its SHA-256), backbone,
    normalisation, pooling and preprocessing, and for one list of images with
    their labels, sizes and times of change.

    Args:
        model (FeatureModel): The model.
        dataset (CustomDataset): From :func:`labelled_images`.
        pooling (str): See :func:`extract_features`.
        folder (str): Where the files lie. It is made if it does not exist.
        title (str): What a terminal shows beside the progress.
        batch_size (int): Images of a batch. Defaults to 128.
        num_workers (int): Processes that read images. Defaults to 0.

    Returns:
        tuple[np.ndarray, np.ndarray]: Features (N, C), float32, and labels
        (N, ), int64.

    Raises:
        ValueError: If an image cannot be decoded, or the file is damaged.
        OSError: If the file cannot be read or written.
    """
    path = osp.join(folder, f'{_key(model, dataset, pooling)}.safetensors')
    if osp.isfile(path):
        try:
            kept = read_tensor_file(path).tensors
            return kept['features'].numpy(), kept['labels'].numpy()
        except (KeyError, ValueError):
            raise ValueError(f'The file of features {path!r} is damaged. '
                             'Delete it: it will be made again.') from None
    check_readable(dataset)
    # Find out now, not after the work, whether it can be written to.
    os.makedirs(folder, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()
    features, labels = extract_features(
        model,
        track(
            batches(dataset, batch_size, num_workers),
            description=title,
            disable=not sys.stdout.isatty()), pooling)
    write_tensor_file(
        path,
        dict(
            features=torch.from_numpy(features),
            labels=torch.from_numpy(labels)),
        dict(source=model.file.source, sha256=model.file.sha256,
             images=dataset.img_prefix),
        overwrite=True)
    return features, labels


def _key(model: FeatureModel, dataset: CustomDataset, pooling: str) -> str:
    """A hash of all that the features depend on."""
    images = []
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        file = os.stat(info['img_path'])
        images.append((osp.relpath(info['img_path'], dataset.img_prefix),
                       info['gt_label'], file.st_size, file.st_mtime_ns))
    text = json.dumps(
        dict(
            checkpoint=model.file.sha256,
            parts=model.parts,
            pooling=pooling,
            preprocessing=repr(dataset.pipeline),
            images=images),
        default=repr,
        sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
