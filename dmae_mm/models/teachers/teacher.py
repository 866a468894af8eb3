import contextlib
import hashlib
import math
import re
from abc import ABCMeta, abstractmethod
from typing import Any, Callable, Iterator, Optional, Sequence, Tuple

import torch
import torch.nn as nn
from mmengine.logging import print_log
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch.distributed.tensor import DTensor

from dmae_mm.host import use_plain_numbers
from dmae_mm.messages import first_few
from dmae_mm.models.student_input import StudentInput
from dmae_mm.weights import TensorFile, read_tensor_file
from dmae_mm.weights.formats import TranslatedFile, translate, what_it_is

from .foreign_details import settle_details
from .image_matcher import ImageMatcher
from .normalisation import settle_normalisation

DTYPES = dict(
    float32=torch.float32, bfloat16=torch.bfloat16, float16=torch.float16)


class Teacher(nn.Module, metaclass=ABCMeta):
    """A frozen network that shows a student its features of visible patches.

    Its parameters never require gradients, it stays in eval mode, runs under
    ``no_grad``, and is shared rather than copied by ``deepcopy`` (an EMA of
    the student needs no second teacher). It follows its images to their
    device. It reads its weights once, when the Runner calls
    ``init_weights()`` or on first use, so that a trained student can be built
    without the teacher's file. A :class:`Distillation` holds it outside the
    student's module tree, and so outside optimizers, checkpoints and DDP.

    A subclass builds its network, truncated after the last aligned block,
    hands it to this constructor, and defines :meth:`load_weights` and
    :meth:`extract_features`. It sets ``described_by`` where it fills in mean
    and std that the config did not give: who says so. ``taps`` are the
    features that it can give, see :class:`FeatureLoss`; one that can give
    those of 'qkv' has an option ``tap`` and sets ``num_heads``, that of the
    aligned blocks. With ``reads_timm``, files of other libraries reach
    :meth:`load_weights` under timm's names; without, as they are.

    Args:
        network (nn.Module): The truncated network.
        aligned_blocks (Sequence[int]): 0-based index of the teacher block of
            each aligned pair, in the order of the pairs.
        img_size (tuple[int, int], optional): Input height and width in
            pixels; None if it takes any.
        patch_grid (tuple[int, int], optional): Rows and columns of patches;
            None if no blocks are aligned.
        embed_dims (int, optional): Width of the features; likewise.
        num_layers (int, optional): Number of blocks before truncation, to
            which negative indices and depth fractions refer; likewise.
        num_prefix_tokens (int): Tokens in front of the patch tokens. Defaults
            to 0.
        has_cls_token (bool): Whether the first prefix token is CLS. Defaults
            to False.
        in_channels (int): Channels of the images. Defaults to 3.
        checkpoint (str, optional): Path or http(s) URL of the weights.
        sha256 (str, optional): What the checkpoint's SHA-256 must begin with,
            8 to 64 hexadecimal digits. Defaults to None, not checked.
        mean (Sequence[float], optional): What the teacher wants subtracted
            from pixel values of 0 to 255, per channel. Defaults to None: what
            the checkpoint says, or else the student's: see
            :func:`settle_normalisation`.
        std (Sequence[float], optional): By what it wants them divided.
        dtype (str): Type of the parameters: 'float32', 'bfloat16' or
            'float16'. Half of the bits are half of the memory; the teacher
            then runs under autocast of that type, whatever the student does.
            What it returns is float32 all the same. Defaults to 'float32'.
        channels (Sequence[int], optional): Which of the student's channels
            the teacher sees, one for each of its own. Defaults to None: all,
            of a grey student its only one for each.
        student_input (StudentInput, optional): The student's images, from
            which the teacher's are made: see :class:`ImageMatcher`. With None
            they must be the teacher's own.
        any_grid (bool): Whether the network resamples its positions to
            images of another size when it gets them. Defaults to False.
        allow_random (bool): Accept ``checkpoint=None`` and teach with random
            weights, the same on every process and after every restart.

    Raises:
        ValueError: If there is neither a checkpoint nor ``allow_random``, or
            an option has an illegal value, or the student's images have
            another number of channels or another grid of patches.
    """

    taps: Tuple[str, ...] = ('block', )
    reads_timm = False
    num_heads: Optional[int] = None

    def __init__(self,
                 network: nn.Module,
                 aligned_blocks: Sequence[int],
                 img_size: Optional[Tuple[int, int]],
                 patch_grid: Optional[Tuple[int, int]] = None,
                 embed_dims: Optional[int] = None,
                 num_layers: Optional[int] = None,
                 num_prefix_tokens: int = 0,
                 has_cls_token: bool = False,
                 in_channels: int = 3,
                 checkpoint: Optional[str] = None,
                 sha256: Optional[str] = None,
                 mean: Optional[Sequence[float]] = None,
                 std: Optional[Sequence[float]] = None,
                 dtype: str = 'float32',
                 channels: Optional[Sequence[int]] = None,
                 student_input: Optional[StudentInput] = None,
                 any_grid: bool = False,
                 allow_random: bool = False) -> None:
        super().__init__()
        _check_grid(student_input, patch_grid)
        channels = _seen_channels(student_input, in_channels, channels)
        _check_options(checkpoint, sha256, dtype, allow_random)
        self.network = network
        self.aligned_blocks = tuple(aligned_blocks)
        self.img_size = img_size and tuple(img_size)
        self.patch_grid = patch_grid and tuple(patch_grid)
        self.image_matcher = ImageMatcher(student_input, self.img_size, mean,
                                          std, channels)
        self.embed_dims = embed_dims
        self.num_layers = num_layers
        self.num_prefix_tokens = num_prefix_tokens
        self.has_cls_token = has_cls_token
        self.any_grid = any_grid
        self.checkpoint = checkpoint
        self.sha256 = sha256
        self.dtype = DTYPES[dtype]
        self.described_by: Optional[str] = None
        self.is_loaded = checkpoint is None
        # Buffers, such as rotary tables, are small and keep their precision,
        # and with their running statistics so do batch norms.
        for module in self.modules():
            if not isinstance(module, _BatchNorm):
                for parameter in module.parameters(recurse=False):
                    parameter.data = parameter.data.to(self.dtype)
        self.requires_grad_(False)
        use_plain_numbers(self)  # or torch.compile would stop at NumPy's
        super().train(False)

    @abstractmethod
    def load_weights(self, file: TensorFile) -> None:
        """Fill the network, or raise ``ValueError`` and name what is wrong.

        Args:
            file (TensorFile): The tensors of ``checkpoint``.
        """

    @abstractmethod
    def extract_features(
            self, images: torch.Tensor,
            ids_keep: Optional[torch.Tensor]) -> Tuple[torch.Tensor, ...]:
        """Forward pass on images that are the teacher's own.

        Args:
            images (torch.Tensor): (B, C, H, W) of ``img_size``, float32.
            ids_keep (torch.Tensor, optional): As in :meth:`forward`.

        Returns:
            tuple[torch.Tensor]: As :meth:`forward`, of any float type.
        """

    def locate_checkpoint(self) -> str:
        """Path or URL of the weights, asked for when they are read."""
        return self.checkpoint

    def init_weights(self) -> None:
        """Read the checkpoint, once. Further calls change nothing.

        Raises:
            OSError: If there is no such file, or it cannot be fetched.
            ValueError: If it is no checkpoint of this network.
        """
        if self.is_loaded:
            return
        try:
            file = read_tensor_file(self.locate_checkpoint())
            _check_sha256(file, self.sha256)
            if self.reads_timm:
                file = translate(file)
        except (OSError, ValueError) as error:
            raise type(error)(f'model.teacher.checkpoint: {error}') from None
        with _all_loaded(self, file.source):
            try:
                self.load_weights(file)
            except ValueError as error:
                raise self._explained(error, file) from None
            settle_details(self.network, file)
        settle_normalisation(self.image_matcher, file, self.described_by)
        self.image_matcher.to(next(self.parameters()).device)
        self.requires_grad_(False)
        self.is_loaded = True
        print_log(
            f'Teacher: it sees {self.describe_images()}'
            f'{self.image_matcher.describe()}, with weights of {self.dtype}.',
            logger='current')

    def _explained(self, error: ValueError, file: TensorFile) -> ValueError:
        """What the file is, where its names tell, and not what is missing."""
        kind = None if self.patch_grid is None else what_it_is(file.tensors)
        if kind is not None:
            return ValueError(
                f'The teacher checkpoint {file.source} cannot be used: it is '
                f'{kind}. A teacher of features is a vision transformer: give '
                'the checkpoint of one.')
        found = file.format if isinstance(file, TranslatedFile) else None
        if found is None or found.model_name is None:
            return error
        return ValueError(
            f'{error} By its names and sizes, the file is {found.name}: '
            f'TimmTeacher(model_name={found.model_name!r}, '
            f'model_kwargs={found.model_kwargs!r}).')

    def describe_images(self) -> str:
        """What it sees, for the log."""
        if self.img_size is None:
            return 'images of any size'
        patches = '' if self.patch_grid is None else (
            '{} x {} patches in '.format(*self.patch_grid))
        return patches + 'images of {} x {} px'.format(*self.img_size)

    def grid_of(self, height: int, width: int) -> Tuple[int, int]:
        """The grid of patches into which it cuts a student's images.

        It is the teacher's own if the student has patches, too. If it has
        none, its images may have any size: they are then resized to the
        largest whole patches of their aspect that fit into the teacher's own
        images.

        Args:
            height (int): Of the student's images, in pixels.
            width (int): Likewise.

        Returns:
            tuple[int, int]: Rows and columns.

        Raises:
            ValueError: If that is another grid than its own, and it cannot
                resample its positions.
        """
        matcher = self.image_matcher
        if matcher.knows_student_size or matcher.student_input is None:
            return self.patch_grid
        scale = min(self.img_size[0] / height, self.img_size[1] / width)
        grid = tuple(
            max(1, round(pixels * scale * number / own)) for pixels, number,
            own in zip((height, width), self.patch_grid, self.img_size))
        if grid != self.patch_grid and not self.any_grid:
            raise ValueError(
                'The images of the student have {} x {} px, those of the '
                'teacher {} x {}, in {} x {} patches, to whose aspect '.format(
                    height, width, *self.img_size, *self.patch_grid) +
                f'images cannot be fitted, since a '
                f'{type(self.network).__name__} does not resample its '
                "positions here. Give images of the teacher's aspect "
                '(RandomResizedCrop.scale in the pipeline), or another '
                'teacher, for example a TimmTeacher.')
        return grid

    def _size_of(self, images: torch.Tensor) -> Optional[Tuple[int, int]]:
        """Size of its images for this batch; None for its own."""
        if self.patch_grid is None:
            return None
        grid = self.grid_of(*images.shape[-2:])
        return None if grid == self.patch_grid else tuple(
            rows * (pixels // own) for rows, pixels, own in zip(
                grid, self.img_size, self.patch_grid))

    def forward(
            self,
            images: torch.Tensor,
            ids_keep: Optional[torch.Tensor] = None
    ) -> Tuple[torch.Tensor, ...]:
        """Features of the visible patches at the aligned blocks.

        Args:
            images (torch.Tensor): The student's normalised images,
                (B, C, H, W).
            ids_keep (torch.Tensor, optional): Indices of the K visible
                patches of each image, row by row over the patch grid, (B, K),
                int64. Defaults to None: all, in their order.

        Returns:
            tuple[torch.Tensor]: For each aligned pair the output of its
            teacher block, (B, P + K, C), the P prefix tokens first and the
            patches in the order of ``ids_keep``. float32, no gradient.
        """
        return self.run_frozen(self.extract_features, images, ids_keep)

    @torch.no_grad()
    def run_frozen(self, function: Callable, images: torch.Tensor,
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
        if next(self.parameters()).device != images.device:
            self.to(images.device)
        images = self.image_matcher(images, self._size_of(images)).float()
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
        for buffer in (self.image_matcher.scale, self.image_matcher.shift):
            if buffer is not None:
                digest.update(repr(buffer.flatten().tolist()).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f'{name} {tuple(tensor.shape)}'.encode())
            if isinstance(tensor, DTensor):  # sharded over processes
                tensor = tensor.full_tensor()
            digest.update(
                tensor.detach().cpu().contiguous().float().numpy().tobytes())
        return digest.hexdigest()

    def train(self, mode: bool = True) -> 'Teacher':
        """Do nothing: a teacher is always in eval mode."""
        return self

    def __deepcopy__(self, memo: dict) -> 'Teacher':
        return self


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


@contextlib.contextmanager
def _all_loaded(module: nn.Module, source: str) -> Iterator[None]:
    """Refuse a module of which some parameters were not loaded.

    One value of each is NaN meanwhile. After an error it is what it was.

    Args:
        module (nn.Module): What is loaded in the body of the ``with``.
        source (str): From where, for the error.

    Raises:
        ValueError: If it is still NaN afterwards.
    """
    first = {
        name: parameter.detach().view(-1)[:1]
        for name, parameter in module.named_parameters()
    }
    before = {name: value.clone() for name, value in first.items()}
    for value in first.values():
        value.fill_(math.nan)
    try:
        yield
        left = [
            name for name, parameter in module.named_parameters()
            if parameter.detach().view(-1)[:1].isnan().any()
        ]
        if left:
            raise ValueError(
                f'{type(module).__name__}.load_weights took {len(left)} of '
                f'{len(first)} parameters not from {source}: '
                f'{first_few(left)}. They would teach at random: load all of '
                'them.')
    except BaseException:
        for name, value in before.items():
            first[name].copy_(value)
        raise


def _check_options(checkpoint: Optional[str], sha256: Optional[str],
                   dtype: str, allow_random: bool) -> None:
    """Refuse options that contradict each other or have illegal values."""
    if checkpoint is None and allow_random is not True:
        raise ValueError(
            'teacher: checkpoint=None. Give the path or URL of the '
            "teacher's weights (a TimmTeacher also takes pretrained=True), or "
            'set allow_random=True if a random teacher is really meant.')
    if sha256 is not None and not (isinstance(sha256, str) and re.fullmatch(
            '[0-9a-fA-F]{8,64}', sha256)):
        raise ValueError(f'teacher: sha256={sha256!r} is not 8 to 64 '
                         'hexadecimal digits.')
    if sha256 is not None and checkpoint is None:
        raise ValueError(f'teacher: sha256={sha256!r} without a checkpoint '
                         'to compare it with. Remove it.')
    if dtype not in DTYPES:
        raise ValueError(f'teacher: dtype={dtype!r} does not exist. Choose '
                         f'one of {list(DTYPES)}.')


def _seen_channels(
        student_input: Optional[StudentInput], in_channels: int,
        channels: Optional[Sequence[int]]) -> Optional[Tuple[int, ...]]:
    """Which of the student's channels a teacher sees; None for all."""
    if student_input is None:
        return None
    theirs = student_input.in_channels
    if channels is None and theirs == in_channels:
        return None
    if channels is None and theirs == 1:
        return (0, ) * in_channels
    if channels is None:
        raise ValueError(
            f'teacher: it takes images of {in_channels} channels, the '
            f'student of {theirs}. Name those that the teacher sees with '
            f'channels=[...], {in_channels} numbers from 0 to {theirs - 1}, '
            'or give both the same number.')
    if len(channels) != in_channels or not all(
            type(c) is int and 0 <= c < theirs for c in channels):
        raise ValueError(
            f'teacher: channels={channels!r} must be {in_channels} numbers, '
            f'one for each channel of the teacher, from 0 to {theirs - 1}, '
            "the student's channels.")
    return tuple(channels)


def _check_grid(student_input: Optional[StudentInput],
                patch_grid: Optional[Sequence[int]]) -> None:
    """Refuse a student with another grid of patches."""
    if student_input is not None and None not in (
            patch_grid, student_input.patch_grid) and (
                student_input.patch_grid != tuple(patch_grid)):
        raise ValueError(
            'teacher: its patch grid is {} x {}, the student has {} x {}. '
            'Both must see the same patches.'.format(
                *patch_grid, *student_input.patch_grid))


def _check_sha256(file: TensorFile, sha256: Optional[str]) -> None:
    """Refuse a file with another checksum than the config's."""
    if sha256 is not None and not file.sha256.startswith(sha256.lower()):
        raise ValueError(
            f'the SHA-256 of {file.source} is {file.sha256}, but the config '
            f'says sha256={sha256!r}. It is another file, or a damaged one: '
            'fetch it again, or correct sha256.')
