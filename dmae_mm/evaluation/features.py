"""One vector an image, from a frozen backbone or from a file that has it."""
import hashlib
import json
import os
import os.path as osp
from typing import Dict, Iterable, Tuple

import numpy as np
import torch
import torch.nn as nn
from mmpretrain.datasets import CustomDataset

from dmae_mm.datasets.pipelines import loader_of
from dmae_mm.files import check_place
from dmae_mm.models.students import outputs_of_whole_images
from dmae_mm.weights import read_tensor_file, write_tensor_file

from .feature_model import FeatureModel
from .images import batches, check_readable, paths_of, with_progress
from .trained_models import in_eval_mode

POOLINGS = ('mean', 'cls')
# (N, C), float32, and labels (N, ), int64.
Features = Tuple[np.ndarray, np.ndarray]


@torch.no_grad()
def extract_features(model: nn.Module,
                     dataloader: Iterable,
                     pooling: str = 'mean') -> Features:
    """One vector for each whole, unmasked image.

    Args:
        model (nn.Module): A model with ``backbone`` and
            ``data_preprocessor``, such as :class:`DMAE`, or a
            :class:`FeatureModel`. Of the model, only the backbone is run, in
            eval mode; afterwards, each module is in the mode in which it was.
        dataloader (Iterable): Labelled batches, in mmpretrain's format.
        pooling (str): 'mean' of the patch tokens, or over space, or the
            'cls' token. Defaults to 'mean'.

    Returns:
        tuple[np.ndarray, np.ndarray]: Features (N, C), float32, and labels
        (N, ), int64.

    Raises:
        ValueError: If the backbone's output cannot be pooled so.
    """
    if pooling not in POOLINGS:
        raise ValueError(f'pooling={pooling!r} does not exist. Choose one of '
                         f'{", ".join(POOLINGS)}.')
    backbone = model.backbone
    features, labels = [], []
    with in_eval_mode(backbone):
        for batch in dataloader:
            batch = model.data_preprocessor(batch, False)
            outputs = outputs_of_whole_images(backbone, batch['inputs'])
            features.append(_pool(backbone, outputs, pooling).cpu())
            labels.extend(int(s.gt_label) for s in batch['data_samples'])
    return torch.cat(features).float().numpy(), np.array(labels)


def _pool(backbone: nn.Module, outputs: Tuple[torch.Tensor, ...],
          pooling: str) -> torch.Tensor:
    """Features (B, C) of a backbone's last output: tokens (B, P + L, C), a
    map (B, C, rows, columns), or (B, C) where the backbone itself pools."""
    if not outputs:
        raise ValueError(
            f'The backbone, a {type(backbone).__name__}, returns no features: '
            'its out_indices name no block that it has.')
    output, num_extra = outputs[-1], getattr(
        backbone, 'num_extra_tokens',
        # Of mmpretrain's TIMMBackbone, which hands out registers as well.
        getattr(getattr(backbone, 'timm_model', None), 'num_prefix_tokens', 0))
    if pooling == 'cls' and (output.dim() != 3 or num_extra == 0):
        raise ValueError(
            f'pooling={pooling!r}, but the backbone, a '
            f'{type(backbone).__name__}, returns no CLS token among its '
            "tokens. Choose 'mean'.")
    if output.dim() == 4:
        return output.mean(dim=(2, 3))
    if output.dim() == 2:
        return output
    return output[:, 0] if pooling == 'cls' else output[:, num_extra:].mean(1)


def cached_features(model: FeatureModel,
                    splits: Dict[str, CustomDataset],
                    pooling: str,
                    folder: str,
                    batch_size: int = 128,
                    num_workers: int = 0,
                    check: bool = True) -> Dict[str, Features]:
    """Features of data sets, from files if they are in some already.

    A file holds for one checkpoint (by its SHA-256), backbone,
    normalisation, pooling and preprocessing, and for one list of images with
    their labels, sizes and times of change.

    Args:
        model (FeatureModel): The model.
        splits (dict[str, CustomDataset]): From :func:`labelled_images`, with
            what a terminal shows beside the progress.
        pooling (str): See :func:`extract_features`.
        folder (str): Where the files lie. It is made if it does not exist.
        batch_size (int): Images of a batch. Defaults to 128.
        num_workers (int): Processes that read images. Defaults to 0.
        check (bool): Whether to decode all images before the work, to name
            all of those that cannot be. Defaults to True.

    Returns:
        dict[str, tuple[np.ndarray, np.ndarray]]: For each, features (N, C),
        float32, and labels (N, ), int64.

    Raises:
        ValueError: If an image cannot be decoded, features are not finite,
            or a file is damaged.
        OSError: If a file cannot be read or written.
    """
    paths = {
        title: osp.join(folder, f'{_key(model, dataset, pooling)}.safetensors')
        for title, dataset in splits.items()
    }
    missing = [title for title, path in paths.items() if not osp.isfile(path)]
    # Find out now, not after the work, what would be wrong later.
    for title in missing:
        check_place(paths[title])
        if check:
            check_readable(
                paths_of(splits[title]), num_workers, f'{title}, files',
                loader_of(splits[title]))
    for title in missing:
        loader = batches(splits[title], batch_size, num_workers)
        features, labels = extract_features(model,
                                            with_progress(loader, title),
                                            pooling)
        _check_finite(features, model, splits[title])
        write_tensor_file(
            paths[title],
            dict(
                features=torch.from_numpy(features),
                labels=torch.from_numpy(labels)),
            dict(
                source=model.file.source,
                sha256=model.file.sha256,
                images=splits[title].img_prefix),
            overwrite=True)
    return {title: _read(path) for title, path in paths.items()}


def _check_finite(features: np.ndarray, model: FeatureModel,
                  dataset: CustomDataset) -> None:
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise ValueError(
            f'{model.file.source} makes features that are not finite of '
            f'{len(bad)} of {len(features)} images, such as '
            f'{paths_of(dataset)[bad[0]]!r}: its weights or its mean and std '
            'are those of another model, or damaged.')


def _read(path: str) -> Features:
    try:
        kept = read_tensor_file(path).tensors
        return kept['features'].numpy(), kept['labels'].numpy()
    except (KeyError, ValueError):
        raise ValueError(f'The file of features {path!r} is damaged. '
                         'Delete it: it will be made again.') from None


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
