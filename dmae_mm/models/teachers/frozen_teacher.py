import contextlib
import hashlib
import weakref
from abc import ABCMeta, abstractmethod
from typing import Any, Callable, Iterator, Optional, Sequence, Tuple

import torch
import torch.nn as nn
from mmengine.logging import print_log
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch.distributed.tensor import DTensor

from dmae_mm.weights import TensorFile, read_tensor_file
from dmae_mm.models.backbones import use_plain_numbers

from .checks import DTYPES, check_options, check_sha256
from .image_matching import ImageMatcher


class FrozenTeacher(nn.Module, metaclass=ABCMeta):
    """A frozen network that teaches a student.

    This class owns what every teacher must be: its parameters never require
    gradients, it stays in eval mode, runs under ``no_grad``, is shared rather
    than copied by ``deepcopy`` (an EMA of the student needs no second
    teacher), and reads its weights once, when the Runner calls
    ``init_weights()`` or on first use, so that a trained student can be built
    without the teacher's file.

    A model keeps its teacher outside its own module tree (see
    :class:`DistillationMixin`), which keeps it out of optimizers, checkpoints
    and DDP.

    A subclass hands its network to this constructor, defines
    :meth:`load_weights`, and calls its network through :meth:`run`.

    Args:
        network (nn.Module): The network.
        images (ImageMatcher): What makes the network's images of the
            student's.
        aligned_blocks (Sequence[int]): 0-based index of the teacher block of
            each aligned pair, in the order of the pairs.
        img_size (tuple[int, int], optional): Input height and width in
            pixels; None if it takes any.
        checkpoint (str, optional): Path or http(s) URL of the weights.
        sha256 (str, optional): What the checkpoint's SHA-256 must begin with,
            8 to 64 hexadecimal digits. Defaults to None, not checked.
        dtype (str): Type of the parameters: 'float32', 'bfloat16' or
            'float16'. Half of the bits are half of the memory; the teacher
            then runs under autocast of that type, whatever the student does.
            What it returns is float32 all the same. Defaults to 'float32'.
        allow_random (bool): Accept ``checkpoint=None`` and teach with random
            weights, the same on every process and after every restart.

    Raises:
        ValueError: If there is neither a checkpoint nor ``allow_random``, or
            an option has an illegal value.
    """

    def __init__(self,
                 network: nn.Module,
                 images: ImageMatcher,
                 aligned_blocks: Sequence[int],
                 img_size: Optional[Tuple[int, int]],
                 checkpoint: Optional[str] = None,
                 sha256: Optional[str] = None,
                 dtype: str = 'float32',
                 allow_random: bool = False) -> None:
        super().__init__()
        self.owner: Optional[weakref.ref] = None  # the model that built it
        check_options(checkpoint, sha256, dtype, allow_random)
        self.network = network
        self.images = images
        self.aligned_blocks = tuple(aligned_blocks)
        self.img_size = img_size
        self.checkpoint = checkpoint
        self.sha256 = sha256
        self.dtype = DTYPES[dtype]
        self.is_loaded = checkpoint is None
        # Buffers, such as rotary tables, are small and keep their precision,
        # and with their running statistics so do batch norms.
        for module in self.modules():
            if not isinstance(module, _BatchNorm):
                for parameter in module.parameters(recurse=False):
                    parameter.data = parameter.data.to(self.dtype)
        self.requires_grad_(False)
        use_plain_numbers(self)
        super().train(False)

    @abstractmethod
    def load_weights(self, file: TensorFile) -> None:
        """Fill the network, or raise ``ValueError`` and name what is wrong.

        Args:
            file (TensorFile): The tensors of ``checkpoint``.
        """

    def locate_checkpoint(self) -> str:
        """Path or URL of the weights, asked for when they are read."""
        return self.checkpoint

    def describe_images(self) -> str:
        """What it sees, for the log."""
        if self.img_size is None:
            return 'images of any size'
        return 'images of {} x {} px'.format(*self.img_size)

    def init_weights(self) -> None:
        """Read the checkpoint, once. Further calls change nothing."""
        if not self.is_loaded:
            try:
                file = read_tensor_file(self.locate_checkpoint())
                check_sha256(file, self.sha256)
            except (OSError, ValueError) as error:
                raise type(error)(
                    f'model.teacher.checkpoint: {error}') from None
            self.load_weights(file)
            self.requires_grad_(False)
            self.is_loaded = True
            print_log(
                f'Teacher: it sees {self.describe_images()}'
                f'{self.images.describe()}, with weights of {self.dtype}.',
                logger='current')

    @torch.no_grad()
    def run(self, function: Callable, images: torch.Tensor,
            *args: Any) -> Tuple[torch.Tensor, ...]:
        """Call a function of the network as a teacher is called.

        Args:
            function (Callable): It gets the teacher's own images and
                ``args``, and returns a tuple of tensors.
            images (torch.Tensor): The student's normalised images,
                (B, C, H, W).
            *args: Further arguments.

        Returns:
            tuple[torch.Tensor]: What the function returned, of at least
            float32, no gradient.
        """
        if not self.is_loaded:
            self.init_weights()
        images = self.images(images)
        if self.dtype is torch.float32:
            outputs = function(images, *args)
        else:
            # Weights of this type need no conversion; what is still float32,
            # such as images and rotary tables, is converted where needed.
            with torch.autocast(images.device.type, self.dtype):
                outputs = function(images, *args)
        return tuple(
            output.to(torch.promote_types(output.dtype, torch.float32))
            for output in outputs)

    def fingerprint(self) -> str:
        """SHA-256 of the weights, as 64 hexadecimal digits.

        Equal for teachers of equal weights, aligned blocks and normalisation:
        what a resumed run compares. Independent of file format and unused
        tensors.
        """
        digest = hashlib.sha256(repr(self.aligned_blocks).encode())
        for buffer in (self.images.scale, self.images.shift):
            if buffer is not None:
                digest.update(repr(buffer.flatten().tolist()).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f'{name} {tuple(tensor.shape)}'.encode())
            if isinstance(tensor, DTensor):  # sharded over processes
                tensor = tensor.full_tensor()
            digest.update(
                tensor.detach().cpu().contiguous().float().numpy().tobytes())
        return digest.hexdigest()

    def is_moved_by(self, model: nn.Module) -> bool:
        """Whether a model takes this teacher along to another device.

        A copy of the model shares the teacher. An average of the student on
        the CPU must not take it there while the student is on a GPU.
        """
        return self.owner is None or self.owner() in (None, model)

    def train(self, mode: bool = True) -> 'FrozenTeacher':
        """Do nothing: a teacher is always in eval mode."""
        return self

    def __deepcopy__(self, memo: dict) -> 'FrozenTeacher':
        return self

    def __getstate__(self) -> dict:
        return dict(self.__dict__, owner=None)  # weak references cannot go


@contextlib.contextmanager
def fixed_seed() -> Iterator[None]:
    """Draw the same random numbers each time, and leave no trace of it.

    Random weights of a teacher must be the same on every rank and after a
    restart, and a run with a teacher must initialise its student as the
    control without one does.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield
