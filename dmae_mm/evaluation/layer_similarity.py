"""CKA between all blocks of a student and all blocks of its teacher."""
from dataclasses import dataclass
from typing import Iterable, List, Sequence, Tuple, Union

import torch
import torch.nn as nn

from dmae_mm.host import build
from dmae_mm.models import ClassifierTeacher, Teacher
from dmae_mm.models.tokens import BlockFeatures, resolve_block
from dmae_mm.models.distillation import check_pairs
from dmae_mm.models.mmpretrain_vits import blocks as blocks_of
from dmae_mm.models.student_input import StudentInput
from dmae_mm.models.tokens import visible_ids

from .cka import MinibatchCKA

RULE_DEPTH = 0.75  # the paper's choice, of both depths


@dataclass(frozen=True)
class Pair:
    """A student block, a teacher block, 0-based, and their CKA."""
    student: int
    teacher: int
    cka: float


def build_whole_teacher(cfg: dict, student: StudentInput) -> Teacher:
    """Build a teacher with all of its blocks, each of which is aligned.

    Args:
        cfg (dict): Section ``model.teacher`` of a config of :class:`DMAE`.
        student (StudentInput): The images of its student.

    Returns:
        Teacher: The teacher, on the CPU. Its weights are not yet read.

    Raises:
        ValueError: If it cannot be built.
    """

    def teacher(blocks: Sequence[int]) -> Teacher:
        return build(
            dict(cfg, aligned_blocks=blocks, student_input=student),
            'model.teacher')

    first = teacher([0])  # one block is quickly built
    if isinstance(first, ClassifierTeacher):
        raise ValueError(f'model.teacher: a {type(first).__name__} has no '
                         'features of visible patches. Choose a '
                         'MMPretrainTeacher or TimmTeacher.')
    return teacher(list(range(first.num_layers)))


@torch.no_grad()
def layer_similarity(model: nn.Module, teacher: Teacher,
                     batches: Iterable[dict]) -> torch.Tensor:
    """Linear CKA of visible patches' tokens, of all blocks with all blocks.

    As in a training step, student and teacher see the same visible patches.
    An example is the token of one patch. A minibatch holds one token of each
    image of a batch: the examples in it are independent of each other, which
    several tokens of an image would not be. A batch of B images with K
    visible patches each thus gives K minibatches of B examples.

    Args:
        model (nn.Module): The student with its data preprocessor, such as a
            :class:`DMAE` without teacher. It is left in eval mode.
        teacher (Teacher): From :func:`build_whole_teacher`.
        batches (Iterable[dict]): Images in mmpretrain's format, in random
            order; each of at least 4.

    Returns:
        torch.Tensor: (student blocks, teacher blocks), float64.

    Raises:
        ValueError: If a batch has fewer than 4 images or CKA is undefined.
    """
    model.eval()
    backbone = model.backbone
    blocks = blocks_of(backbone)
    student_blocks = BlockFeatures(blocks, range(len(blocks)))
    cka = MinibatchCKA(len(blocks), teacher.num_layers)
    for batch in batches:
        images = model.data_preprocessor(batch)['inputs']
        (latent, _, ids_restore), ours = student_blocks.record(
            backbone, images)
        num_visible = latent.shape[1] - backbone.num_extra_tokens
        ids_keep = visible_ids(ids_restore, num_visible)  # (B, K)
        theirs = teacher(images, ids_keep)
        # The k-th visible patch of each image: its place is random.
        cka.update(*([
            tokens[:, prefix:].transpose(0, 1)  # (K, B, C)
            for tokens in features
        ] for features, prefix in ((ours, backbone.num_extra_tokens),
                                   (theirs, teacher.num_prefix_tokens))))
    return cka.result()


def resolve_pairs(
        aligned_layers: Sequence[Tuple[Union[int, float], Union[int, float]]],
        student_blocks: int, teacher_blocks: int) -> List[Tuple[int, int]]:
    """The pairs of a config as 0-based blocks.

    Args:
        aligned_layers (Sequence[tuple]): As in :class:`DMAE`.
        student_blocks (int): Number of the student's blocks.
        teacher_blocks (int): Number of the teacher's blocks.

    Returns:
        list[tuple[int, int]]: Student block and teacher block of each.

    Raises:
        ValueError: If these are no pairs, or there is no such block.
    """
    check_pairs(aligned_layers)
    return [(resolve_block(ours, student_blocks, 'student'),
             resolve_block(theirs, teacher_blocks, 'teacher'))
            for ours, theirs in aligned_layers]


def rule_pair(cka: torch.Tensor) -> Pair:
    """The paper's pair: three quarters of both depths.

    Args:
        cka (torch.Tensor): From :func:`layer_similarity`.

    Returns:
        Pair: The pair.
    """
    blocks, = resolve_pairs([(RULE_DEPTH, RULE_DEPTH)], *cka.shape)
    return Pair(*blocks, cka[blocks].item())


def choose_pairs(cka: torch.Tensor,
                 student_blocks: Sequence[int]) -> List[Pair]:
    """For each of some student blocks, the teacher's most similar block.

    Of equal ones the first, which costs least.

    Args:
        cka (torch.Tensor): From :func:`layer_similarity`.
        student_blocks (Sequence[int]): 0-based.

    Returns:
        list[Pair]: One pair for each.
    """
    best = cka.argmax(dim=1).tolist()
    return [
        Pair(block, best[block], cka[block, best[block]].item())
        for block in student_blocks
    ]
