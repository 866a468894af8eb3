import hashlib
from abc import ABCMeta, abstractmethod
from typing import Optional, Sequence, Tuple

import torch
import torch.nn as nn
from mmengine.logging import print_log

from dmae_mm.checkpoints import TensorFile, read_tensor_file
from dmae_mm.models.students import StudentInput

from .checks import DTYPES, check_options, check_sha256
from .image_matching import ImageMatcher


class BaseTeacher(nn.Module, metaclass=ABCMeta):
    """A frozen network that shows a student its features of visible patches.

    This class owns what every teacher must be: its parameters never require
    gradients, it stays in eval mode, runs under ``no_grad``, is shared rather
    than copied by ``deepcopy`` (an EMA of the student needs no second
    teacher), and reads its weights once, when the Runner calls
    ``init_weights()`` or on first use, so that a trained student can be built
    without the teacher's file.

    A model keeps its teacher outside its own module tree (see
    :class:`DMAE`), which keeps it out of optimizers, checkpoints and DDP.

    A subclass builds its network truncated after the last aligned block,
    hands it to this constructor, and defines :meth:`load_weights` and
    :meth:`extract_features`.

    Args:
        network (nn.Module): The truncated network.
        aligned_blocks (Sequence[int]): 0-based index of the teacher block of
            each aligned pair, in the order of the pairs.
        embed_dims (int): Width of the features.
        num_layers (int): Number of blocks before truncation, to which
            negative indices and depth fractions refer.
        num_prefix_tokens (int): Tokens in front of the patch tokens.
        has_cls_token (bool): Whether the first prefix token is CLS.
        img_size (tuple[int, int]): Input height and width in pixels.
        patch_grid (tuple[int, int]): Rows and columns of patches.
        in_channels (int): Channels of the images. Defaults to 3.
        checkpoint (str, optional): Path or http(s) URL of the weights.
        sha256 (str, optional): What the checkpoint's SHA-256 must begin with,
            8 to 64 hexadecimal digits. Defaults to None, not checked.
        mean (Sequence[float], optional): What the teacher wants subtracted
            from pixel values of 0 to 255, per channel. Defaults to None, the
            same normalisation as the student's.
        std (Sequence[float], optional): By what it wants them divided.
        dtype (str): Type of the parameters: 'float32', 'bfloat16' or
            'float16'. Half of the bits are half of the memory; the teacher
            then runs under autocast of that type, whatever the student does.
            Features are float32 all the same. Defaults to 'float32'.
        student_input (StudentInput, optional): The student's images, from
            which the teacher's are made: see :class:`ImageMatcher`. With None
            they must be the teacher's own.
        allow_random (bool): Accept ``checkpoint=None`` and teach with random
            weights, the same on every process and after every restart.

    Raises:
        ValueError: If there is neither a checkpoint nor ``allow_random``, or
            an option has an illegal value, or the student's images have
            another number of channels or another grid of patches.
    """

    def __init__(self,
                 network: nn.Module,
                 aligned_blocks: Sequence[int],
                 embed_dims: int,
                 num_layers: int,
                 num_prefix_tokens: int,
                 has_cls_token: bool,
                 img_size: Tuple[int, int],
                 patch_grid: Tuple[int, int],
                 in_channels: int = 3,
                 checkpoint: Optional[str] = None,
                 sha256: Optional[str] = None,
                 mean: Optional[Sequence[float]] = None,
                 std: Optional[Sequence[float]] = None,
                 dtype: str = 'float32',
                 student_input: Optional[StudentInput] = None,
                 allow_random: bool = False) -> None:
        super().__init__()
        check_options(checkpoint, sha256, dtype, allow_random)
        if student_input and student_input.in_channels != in_channels:
            raise ValueError(
                f'teacher: it takes images of {in_channels} channels, the '
                f'student of {student_input.in_channels}. Give both the same '
                'number.')
        if student_input and student_input.patch_grid != tuple(patch_grid):
            raise ValueError(
                'teacher: its patch grid is {} x {}, the student has {} x {}. '
                'Both must see the same patches.'.format(
                    *patch_grid, *student_input.patch_grid))
        self.network = network
        self.images = ImageMatcher(student_input, tuple(img_size), mean, std)
        self.aligned_blocks = tuple(aligned_blocks)
        self.embed_dims = embed_dims
        self.num_layers = num_layers
        self.num_prefix_tokens = num_prefix_tokens
        self.has_cls_token = has_cls_token
        self.img_size = tuple(img_size)
        self.patch_grid = tuple(patch_grid)
        self.checkpoint = checkpoint
        self.sha256 = sha256
        self.dtype = DTYPES[dtype]
        self.is_loaded = checkpoint is None
        # Buffers, such as rotary tables, are small and keep their precision.
        for parameter in self.parameters():
            parameter.data = parameter.data.to(self.dtype)
        self.requires_grad_(False)
        super().train(False)

    @abstractmethod
    def load_weights(self, file: TensorFile) -> None:
        """Fill the network, or raise ``ValueError`` and name what is wrong.

        Args:
            file (TensorFile): The tensors of ``checkpoint``.
        """

    @abstractmethod
    def extract_features(self, images: torch.Tensor,
                         ids_keep: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        """Forward pass on images that are the teacher's own.

        Args:
            images (torch.Tensor): (B, C, *img_size), float32.
            ids_keep (torch.Tensor): As in :meth:`forward`.

        Returns:
            tuple[torch.Tensor]: As :meth:`forward`, of any float type.
        """

    def locate_checkpoint(self) -> str:
        """Path or URL of the weights, asked for when they are read."""
        return self.checkpoint

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
                'Teacher: it sees {} x {} patches in images of {} x {} px'
                .format(*self.patch_grid, *self.img_size) +
                f'{self.images.describe()}, with weights of {self.dtype}.',
                logger='current')

    @torch.no_grad()
    def forward(self, images: torch.Tensor,
                ids_keep: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        """Features of the visible patches at the aligned blocks.

        Args:
            images (torch.Tensor): The student's normalised images,
                (B, 3, H, W).
            ids_keep (torch.Tensor): Indices of the K visible patches of each
                image, row by row over the patch grid, (B, K), int64.

        Returns:
            tuple[torch.Tensor]: For each aligned pair the output of its
            teacher block, (B, P + K, C), the P prefix tokens first and the
            patches in the order of ``ids_keep``. float32, no gradient.
        """
        if not self.is_loaded:
            self.init_weights()
        images = self.images(images)
        if self.dtype is torch.float32:
            features = self.extract_features(images, ids_keep)
        else:
            # Weights of this type need no conversion; what is still float32,
            # such as images and rotary tables, is converted where needed.
            with torch.autocast(images.device.type, self.dtype):
                features = self.extract_features(images, ids_keep)
        return tuple(
            feature.to(torch.promote_types(feature.dtype, torch.float32))
            for feature in features)

    def fingerprint(self) -> str:
        """SHA-256 of the weights, as 64 hexadecimal digits.

        Two teachers with equal fingerprints teach the same: what a resumed
        run compares. Independent of file format and unused tensors.
        """
        digest = hashlib.sha256(repr(self.aligned_blocks).encode())
        for buffer in (self.images.scale, self.images.shift):
            if buffer is not None:
                digest.update(repr(buffer.flatten().tolist()).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f'{name} {tuple(tensor.shape)}'.encode())
            digest.update(
                tensor.detach().cpu().contiguous().float().numpy().tobytes())
        return digest.hexdigest()

    def train(self, mode: bool = True) -> 'BaseTeacher':
        """Do nothing: a teacher is always in eval mode."""
        return self

    def __deepcopy__(self, memo: dict) -> 'BaseTeacher':
        return self
