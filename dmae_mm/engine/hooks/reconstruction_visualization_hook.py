import copy
import os.path as osp
from typing import Iterable, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
from mmengine.dataset import BaseDataset
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS
from torch.distributed.tensor import DTensor

from dmae_mm.evaluation import image_size
from dmae_mm.evaluation.image_files import (ImageFiles, central_pipeline,
                                          image_errors, list_images, spread)
from dmae_mm.evaluation.reconstruction import check_reconstructs, reconstruct
from dmae_mm.evaluation.reconstruction_picture import draw_reconstructions
from dmae_mm.datasets import BadImageError
from dmae_mm.datasets.transforms.load_image_or_skip import MAX_IN_A_ROW
from dmae_mm.models.student_input import input_channels
from dmae_mm.options import reject_unknown_options

from .unwrapped_model import unwrapped_model


@HOOKS.register_module()
@reject_unknown_options
class ReconstructionVisualizationHook(Hook):
    """Shows during pre-training what the student makes of a few images.

    Before the first step, every ``interval`` steps, and at the end, each
    image becomes one picture: what is visible of it, the reconstruction (the
    visible patches beside the predicted ones), the original, and for each
    aligned pair a map of the cosine between the projected student's and the
    teacher's token of each visible patch. An image keeps its mask, so that
    pictures of different steps can be compared. They go to MMEngine's
    visualizer as ``reconstruction_0``, ``reconstruction_1``, ...: PNG files
    in ``vis_data/vis_image/``, and TensorBoard if ``TensorboardVisBackend``
    is one of its backends.

    The run goes on as if it were not watched, bit for bit: no random number
    is drawn from its generators, and no module is left in another mode. The
    main process draws and the others do not wait, unless parameters are in
    shards (``FullyShardedStrategy``). With an ``EMAHook``, the
    pictures are of the weights that are trained, not of their average.

    As an option of the command line::

        --cfg-options \\
            default_hooks.pictures.type=ReconstructionVisualizationHook \\
            default_hooks.pictures.interval=500

    Args:
        images (str | Sequence[str], optional): A folder, or a list of image
            files, all of which are drawn. Defaults to None: the images of
            ``train_dataloader.dataset``, from files or shards; of those that
            cannot be read, the log names each, and the next is taken.
        num_images (int): How many of a folder or data set are drawn, evenly
            spread over it in its order. Defaults to 4.
        interval (int): Steps from one picture to the next. Defaults to 1000.
        crop_pct (float): Part of the images' shorter side that the central
            crop keeps: see :class:`ImageFiles`. Defaults to 0.875.
        seed (int): Of the masks: see :func:`reconstruct`. Defaults to 0.

    Raises:
        ValueError: If an option has no legal value, or, before the training
            starts, if the model is no masked autoencoder, one of ``images``
            or all of the data set's that are tried cannot be decoded, or the
            data set does not name image files.
        FileNotFoundError: Before the training starts, if a folder or file
            does not exist.
    """

    def __init__(self,
                 images: Optional[Union[str, Sequence[str]]] = None,
                 num_images: int = 4,
                 interval: int = 1000,
                 crop_pct: float = 0.875,
                 seed: int = 0) -> None:
        for name, value, least in (('num_images', num_images, 1),
                                   ('interval', interval, 1), ('seed', seed,
                                                               0)):
            if type(value) is not int or value < least:
                raise ValueError(
                    f'ReconstructionVisualizationHook: {name}={value!r} is '
                    f'not an int of at least {least}.')
        is_list = isinstance(images, (list, tuple)) and len(images) > 0
        if not (images is None or isinstance(images, str) or
                (is_list and all(isinstance(path, str) for path in images))):
            raise ValueError(
                f'ReconstructionVisualizationHook: images={images!r} is '
                'neither a folder nor a list of image files.')
        self.images, self.num_images = images, num_images
        self.interval = interval
        self.crop_pct = crop_pct
        self.seed = seed
        self._last_drawn: Optional[int] = None

    def before_train(self, runner) -> None:
        """Read the images, find what is wrong, and draw for the first time.

        All processes read, so that all stop if one image cannot be.
        """
        model = unwrapped_model(runner)
        check_reconstructs(model)
        self._names, self._inputs = self._read_images(runner, model.backbone)
        self._draw(runner, model)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None,
                         outputs=None) -> None:
        """Draw every ``interval`` steps."""
        if self.every_n_train_iters(runner, self.interval):
            self._draw(runner, unwrapped_model(runner), runner.iter + 1)

    def after_train(self, runner) -> None:
        """Draw the end, wherever it is."""
        if self._last_drawn != runner.iter:
            self._draw(runner, unwrapped_model(runner))

    def _read_images(
            self, runner,
            backbone: nn.Module) -> Tuple[List[str], List[torch.Tensor]]:
        """Names and pixels, (C, H, W), of the images."""
        options = (image_size(backbone), self.crop_pct,
                   input_channels(backbone))
        if self.images is None:
            return self._of_dataset(runner, options)
        paths = self.images
        if isinstance(paths, str):
            paths = list_images(paths)
            paths = [paths[i] for i in spread(len(paths), self.num_images)]
        files = ImageFiles(paths, *options)
        return files.paths, [files[i]['inputs'] for i in range(len(files))]

    def _of_dataset(self, runner,
                    options: tuple) -> Tuple[List[str], List[torch.Tensor]]:
        dataset = runner.train_dataloader.dataset
        found: List[Tuple[str, torch.Tensor]] = []
        skipped: List[str] = []
        if isinstance(dataset, BaseDataset):
            dataset = copy.copy(dataset)  # it reads, but augments nothing
            dataset.pipeline = central_pipeline(*options)
            starts = spread(len(dataset), self.num_images)
            for start, end in zip(starts, [*starts[1:], len(dataset)]):
                # As the training skips a broken file, up to as many in a row.
                indices = range(start, end)[:MAX_IN_A_ROW]
                found += _first_readable(dataset, indices, skipped)
        for problem in skipped:
            runner.logger.warning(
                f'ReconstructionVisualizationHook skips {problem}.')
        if not found and skipped:
            raise ValueError(
                'ReconstructionVisualizationHook: no image of the training '
                f'data that was tried can be read; the last is {skipped[-1]}. '
                'Give images, a folder or a list of files.')
        if not found:
            raise ValueError(
                'ReconstructionVisualizationHook: the training data set, a '
                f'{type(dataset).__name__}, does not name image files. Give '
                'images, a folder or a list of files.')
        names, inputs = map(list, zip(*found))
        return names, inputs

    def _draw(self,
              runner,
              model: nn.Module,
              step: Optional[int] = None) -> None:
        step = runner.iter if step is None else step
        self._last_drawn = step
        # With parameters in shards, a forward pass takes all processes.
        if not is_main_process() and not _is_sharded(model):
            return
        found = reconstruct(model, self._inputs, self.seed)
        if not is_main_process():
            return
        for index, (name, one) in enumerate(zip(self._names, found)):
            picture = draw_reconstructions(
                [[one]], f'{osp.basename(name)}, step {step}')
            runner.visualizer.add_image(f'reconstruction_{index}', picture,
                                        step)


def _first_readable(dataset: BaseDataset, indices: Iterable[int],
                    skipped: List[str]) -> List[Tuple[str, torch.Tensor]]:
    """Name and pixels of the first that the training would not skip.

    Empty if there is none, or the data set has no names. What is skipped, and
    why, is appended to ``skipped``.
    """
    for index in indices:
        name = dataset.get_data_info(index).get('img_path')
        if name is None:
            break
        with image_errors(name):
            try:
                return [(name, dataset.prepare_data(index)['inputs'])]
            except BadImageError as error:
                skipped.append(f'{name!r}: {error}')
    return []


def _is_sharded(model: nn.Module) -> bool:
    return any(isinstance(p, DTensor) for p in model.parameters())
