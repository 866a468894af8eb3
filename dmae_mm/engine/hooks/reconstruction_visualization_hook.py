import copy
import os.path as osp
from typing import List, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
from mmengine.dataset import BaseDataset
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS
from torch.distributed.tensor import DTensor

from dmae_mm.datasets import BadImageError
from dmae_mm.datasets.folders import image_folder
from dmae_mm.datasets.pipelines import loader_of
from dmae_mm.datasets.transforms.load_image_or_skip import MAX_IN_A_ROW
from dmae_mm.evaluation.images import EvaluationPipeline, evenly_spread
from dmae_mm.evaluation.pictures import draw_reconstructions
from dmae_mm.evaluation.reconstruction import check_reconstructs, reconstruct
from dmae_mm.host import unwrapped_model
from dmae_mm.options import reject_unknown_options


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
        images (str | Sequence[str], optional): A list of image files, all of
            which are drawn, or a folder. Defaults to None: the images of
            ``train_dataloader.dataset``, from files or shards. Of those of a
            folder or data set that cannot be read, the log names each, and
            the next is taken.
        num_images (int): How many of a folder or data set are drawn, evenly
            spread over it in its order. Defaults to 4.
        interval (int): Steps from one picture to the next. Defaults to 1000.
        crop_pct (float): Part of the images' shorter side that the central
            crop keeps: see :class:`EvaluationPipeline`. Defaults to 0.875.
        seed (int): Of the masks: see :func:`reconstruct`. Defaults to 0.

    Raises:
        ValueError: If an option has no legal value, or, before the training
            starts, if the model is no masked autoencoder, one of a list or
            all that are tried of a folder or data set cannot be decoded, or
            the data set does not name image files.
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
        pipeline = EvaluationPipeline.of(
            model.backbone, self.crop_pct,
            loader_of(runner.train_dataloader.dataset))
        if isinstance(self.images, (list, tuple)):
            self._names = self.images
            self._inputs = pipeline.read(self.images)['inputs']
        else:
            self._names, self._inputs = zip(*self._choose(runner, pipeline))
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

    def _choose(
            self, runner,
            pipeline: EvaluationPipeline) -> List[Tuple[str, torch.Tensor]]:
        """Names and pixels, (C, H, W), of some images of a data set."""
        dataset = (
            runner.train_dataloader.dataset
            if self.images is None else image_folder(self.images))
        if not (isinstance(dataset, BaseDataset)
                and 'img_path' in dataset.get_data_info(0)):
            raise ValueError(
                'ReconstructionVisualizationHook: the training data set, a '
                f'{type(dataset).__name__}, does not name image files. Give '
                'images, a folder or a list of files.')
        dataset = copy.copy(dataset)  # it reads, but augments nothing
        dataset.pipeline = pipeline
        chosen, starts = [], evenly_spread(len(dataset), self.num_images)
        for start, end in zip(starts, [*starts[1:], len(dataset)]):
            # As the training skips a broken file, up to as many in a row.
            for index in range(start, end)[:MAX_IN_A_ROW]:
                try:
                    pixels = dataset.prepare_data(index)['inputs']
                except (BadImageError, FileNotFoundError) as error:
                    skipped = error
                    runner.logger.warning('ReconstructionVisualizationHook '
                                          f'skips an image. {error}')
                    continue
                name = dataset.get_data_info(index)['img_path']
                chosen.append((name, pixels))
                break
        if not chosen:
            raise ValueError(
                'ReconstructionVisualizationHook: no image that was tried '
                f'can be read. The last: {skipped} Or give other images, a '
                'folder or a list of files.')
        return chosen

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


def _is_sharded(model: nn.Module) -> bool:
    return any(isinstance(p, DTensor) for p in model.parameters())
