from typing import Optional

import numpy as np
import torch.nn as nn
from mmengine.dist import (all_gather_object, broadcast_object_list, get_rank,
                           get_world_size, is_main_process)
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop
from mmpretrain.datasets import CustomDataset
from mmpretrain.registry import HOOKS

from dmae_mm.datasets.pipelines import loader_of
from dmae_mm.evaluation import (check_scikit_learn, check_splits,
                                extract_features, knn_accuracy)
from dmae_mm.evaluation.features import Features
from dmae_mm.evaluation.images import (EvaluationPipeline, batches,
                                       check_readable, labelled_images,
                                       paths_of)
from dmae_mm.host import unwrapped_model
from dmae_mm.options import reject_unknown_options


@HOOKS.register_module()
@reject_unknown_options
class OnlineProbeHook(Hook):
    """Watches during pre-training how good the student's features are.

    Every few epochs, and after the last, labelled images are classified by
    their nearest neighbours among others, by the mean of the student's patch
    tokens: what ``tools/evaluate.py --knn`` computes from a checkpoint. The
    accuracy in percent goes to the log and to the visualizer (TensorBoard, if
    ``TensorboardVisBackend`` is one of its backends) as ``probe/knn``.

    The run goes on as if it were not watched, bit for bit: no random number
    is drawn from its generators, and no module is left in another mode. The
    images are shared out among the processes. The teacher is not run. With
    an ``EMAHook``, the probed weights are those that are trained, not their
    average.

    As an option of the command line::

        --cfg-options default_hooks.probe.type=OnlineProbeHook \\
            default_hooks.probe.train_root=data/digits/train \\
            default_hooks.probe.test_root=data/digits/test

    Args:
        train_root (str): Folder of the images among which neighbours are
            searched, one sub-folder a class.
        test_root (str): Folder of the images to classify, with the same
            sub-folders. Both are meant to be small, some 10,000 images: all
            are decoded before the training starts, and one process searches
            the neighbours while the others wait.
        train_list (str, optional): Take only those images of ``train_root``
            that this list of ``tools/make_subset.py`` names. Defaults to
            None.
        interval (int): Epochs from one probe to the next. Defaults to 5.
        k (int): Number of neighbours. Defaults to 5.
        crop_pct (float): Part of the images' shorter side that the central
            crop keeps: see :class:`EvaluationPipeline`. Defaults to 0.875.
        img_size (int, optional): Height and width that the student gets.
            Defaults to None: those that it is made for, 224 if it takes any.
        batch_size (int): Images of a batch, in each process. Defaults to 128.
        num_workers (int): Processes that read images, for each process.
            Defaults to 0.

    Raises:
        ValueError: If an option has no legal value, or, before the training
            starts, if the images have no labels, cannot be decoded, have
            other classes than each other or are fewer than k, or if the run
            counts iterations instead of epochs.
        FileNotFoundError: Before the training starts, if a folder does not
            exist.
        ImportError: If scikit-learn is not installed.
    """

    def __init__(self,
                 train_root: str,
                 test_root: str,
                 train_list: Optional[str] = None,
                 interval: int = 5,
                 k: int = 5,
                 crop_pct: float = 0.875,
                 img_size: Optional[int] = None,
                 batch_size: int = 128,
                 num_workers: int = 0) -> None:
        for name, value, least in (('interval', interval, 1), ('k', k, 1),
                                   ('img_size',
                                    1 if img_size is None else img_size, 1),
                                   ('batch_size', batch_size, 1),
                                   ('num_workers', num_workers, 0)):
            if type(value) is not int or value < least:
                raise ValueError(f'OnlineProbeHook: {name}={value!r} is not '
                                 f'an int of at least {least}.')
        check_scikit_learn()
        self.roots = (train_root, train_list), (test_root, None)
        self.interval, self.k = interval, k
        self.crop_pct, self.img_size = crop_pct, img_size
        self.batch_size, self.num_workers = batch_size, num_workers

    def before_train(self, runner) -> None:
        """Find the images, and whatever is wrong with them."""
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ValueError('OnlineProbeHook counts epochs, but '
                             "train_cfg.type is 'IterBasedTrainLoop'. Use "
                             "'EpochBasedTrainLoop', or leave out the hook.")
        pipeline = EvaluationPipeline.of(
            unwrapped_model(runner).backbone, self.crop_pct,
            loader_of(runner.train_dataloader.dataset), self.img_size)
        self.splits = [
            labelled_images(root, pipeline, list_file)
            for root, list_file in self.roots
        ]
        check_splits(*self.splits, num_neighbors=self.k)
        for dataset in self.splits:
            check_readable(
                paths_of(dataset), self.num_workers, loader=pipeline.loader)

    def after_train_epoch(self, runner) -> None:
        """Probe, and log the accuracy."""
        if not (self.every_n_epochs(runner, self.interval)
                or self.is_last_train_epoch(runner)):
            return
        train, test = (
            self._features(unwrapped_model(runner), dataset)
            for dataset in self.splits)
        # Once is enough, and all processes have to log the same.
        result = [
            knn_accuracy(train, test, self.k) if is_main_process() else None
        ]
        broadcast_object_list(result)
        epoch = runner.epoch + 1
        runner.logger.info(f'Epoch(probe) [{epoch}]  probe/knn: '
                           f'{result[0]:.2f}')
        runner.message_hub.update_scalar('probe/knn', result[0])
        runner.visualizer.add_scalar('probe/knn', result[0], step=epoch)

    def _features(self, model: nn.Module, dataset: CustomDataset) -> Features:
        """Features and labels of all images, in their order, everywhere."""
        rank, world_size = get_rank(), get_world_size()
        parts = all_gather_object(
            extract_features(
                model,
                batches(dataset, self.batch_size, self.num_workers,
                        (rank, world_size))))
        features = np.empty((len(dataset), parts[0][0].shape[1]), np.float32)
        labels = np.empty(len(dataset), np.int64)
        for index, (some_features, some_labels) in enumerate(parts):
            # A process without images of its own has worked on the first.
            count = len(labels[index::world_size])
            features[index::world_size] = some_features[:count]
            labels[index::world_size] = some_labels[:count]
        return features, labels
