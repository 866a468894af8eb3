import hashlib
from abc import ABCMeta, abstractmethod
from typing import Optional, Sequence, Tuple

import torch
import torch.nn as nn

from dmae_mm.checkpoints import TensorFile, read_tensor_file


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
        checkpoint (str, optional): Path or http(s) URL of the weights.
        allow_random (bool): Accept ``checkpoint=None`` and teach with random
            weights, the same on every process and after every restart.

    Raises:
        ValueError: If there is neither a checkpoint nor ``allow_random``.
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
                 checkpoint: Optional[str] = None,
                 allow_random: bool = False) -> None:
        super().__init__()
        if checkpoint is None and allow_random is not True:
            raise ValueError(
                'teacher: checkpoint=None. Give the path or URL of the '
                "teacher's weights, or set allow_random=True if a random "
                'teacher is really meant.')
        self.network = network
        self.aligned_blocks = tuple(aligned_blocks)
        self.embed_dims = embed_dims
        self.num_layers = num_layers
        self.num_prefix_tokens = num_prefix_tokens
        self.has_cls_token = has_cls_token
        self.img_size = tuple(img_size)
        self.patch_grid = tuple(patch_grid)
        self.checkpoint = checkpoint
        self.is_loaded = checkpoint is None
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
        """Forward pass; same arguments and result as :meth:`forward`."""

    def init_weights(self) -> None:
        """Read the checkpoint, once. Further calls change nothing."""
        if not self.is_loaded:
            try:
                file = read_tensor_file(self.checkpoint)
            except (OSError, ValueError) as error:
                raise type(error)(
                    f'model.teacher.checkpoint: {error}') from None
            self.load_weights(file)
            self.requires_grad_(False)
            self.is_loaded = True

    @torch.no_grad()
    def forward(self, images: torch.Tensor,
                ids_keep: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        """Features of the visible patches at the aligned blocks.

        Args:
            images (torch.Tensor): Normalised images, (B, 3, H, W).
            ids_keep (torch.Tensor): Indices of the K visible patches of each
                image, row by row over the patch grid, (B, K), int64.

        Returns:
            tuple[torch.Tensor]: For each aligned pair the output of its
            teacher block, (B, P + K, C), the P prefix tokens first and the
            patches in the order of ``ids_keep``. No gradient.
        """
        if not self.is_loaded:
            self.init_weights()
        return self.extract_features(images, ids_keep)

    def fingerprint(self) -> str:
        """SHA-256 of the weights, as 64 hexadecimal digits.

        Two teachers with equal fingerprints teach the same: what a resumed
        run compares. Independent of file format and unused tensors.
        """
        digest = hashlib.sha256(repr(self.aligned_blocks).encode())
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
