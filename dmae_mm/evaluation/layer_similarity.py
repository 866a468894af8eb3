"""CKA between all blocks of a student and all blocks of its teacher."""
from typing import (Dict, Iterable, Iterator, List, Optional, Sequence, Tuple,
                    Union)

import torch
import torch.nn as nn
from torch.utils.data import DataLoader

from dmae_mm.datasets import LoadImageOrSkip
from dmae_mm.datasets.folders import image_folder
from dmae_mm.host import build, quietly
from dmae_mm.messages import first_few
from dmae_mm.models import DMAE, Teacher
from dmae_mm.models.checks import check_pairs, check_sees_patches
from dmae_mm.models.mmpretrain_vits import blocks as blocks_of
from dmae_mm.models.mmpretrain_vits import prefix_tokens
from dmae_mm.models.student_input import StudentInput
from dmae_mm.models.tokens import OutputRecorder, first_ids, resolve_block
from dmae_mm.weights import read_tensor_file

from .cka import MIN_EXAMPLES, BlockOutputs, minibatch_cka
from .images import EvaluationPipeline, paths_of, problems, with_progress
from .trained_models import (build_pretraining_model, load_backbone, move,
                             read_loader, read_model)

RULE_DEPTH = 0.75  # the paper's choice, of both depths


def compare_layers(config: str,
                   images: str,
                   checkpoint: Optional[str] = None,
                   teacher: Optional[str] = None,
                   num_images: int = 1024,
                   batch_size: int = 64,
                   num_workers: int = 2,
                   seed: int = 0,
                   crop_pct: float = 0.875,
                   value_range: Optional[Sequence[float]] = None,
                   device: Optional[str] = None,
                   cfg_options: dict = dict()) -> dict:
    """Compare the student of a config with its teacher, on image files.

    Args: As ``tools/analysis/layer_similarity.py --help`` says.

    Returns:
        dict: What was compared; 'cka', (student blocks, teacher blocks) as
        lists; pairs as of :func:`as_pair`: the paper's 'rule', the
        'config_pairs', and the 'most_similar' to their student blocks; and
        path and reason of the images that were 'skipped'.

    Raises:
        ValueError: If the model, a checkpoint or the images cannot be used.
        OSError: If a file cannot be found, read or fetched.
    """
    section = read_model(config, cfg_options)
    option, distillation = chosen_teacher(section, config, teacher)
    torch.manual_seed(seed)
    model = build_pretraining_model(section, config)
    if not isinstance(model, DMAE):
        raise ValueError(f'The model of {config} is a '
                         f'{type(model).__name__}, not a DMAE.')
    if model.stock is not None:
        raise ValueError(
            f'model.backbone is a {type(model.backbone).__name__}, which has '
            'no tokens of patches to compare: choose the aligned stage by a '
            'run of each.')
    network = build_whole_teacher(
        distillation['teacher'],
        StudentInput.of_vit(model.backbone, model.data_preprocessor), option)
    configured = resolve_pairs(distillation['aligned_layers'],
                               len(blocks_of(model.backbone)),
                               network.num_layers)
    pipeline = EvaluationPipeline.of(
        model.backbone, crop_pct,
        read_loader(config, cfg_options, value_range))
    generator = torch.Generator().manual_seed(seed)
    paths, skipped = _drawn(images, num_images, num_workers, generator,
                            pipeline.loader)
    with quietly():
        model.init_weights()
    file = checkpoint and read_tensor_file(checkpoint)
    if file:
        load_backbone(model.backbone, file, config)
    network.init_weights()
    for each in (model, network):
        move(each, device)

    # The last batch must not be too small: below two batches of 4, one.
    number = min(-(-len(paths) // batch_size), len(paths) // MIN_EXAMPLES)
    batches = DataLoader(
        paths,
        batch_sampler=[
            part.tolist()
            for part in torch.arange(len(paths)).tensor_split(number)
        ],
        num_workers=num_workers,
        collate_fn=pipeline.read,
        generator=generator)  # not the one that draws the masks
    torch.manual_seed(seed)  # the same masks with and without checkpoint
    cka = layer_similarity(model, network, with_progress(batches, 'batches'))
    return dict(
        config=config,
        checkpoint=checkpoint,
        sha256=file and file.sha256,
        name=teacher,
        teacher=network.checkpoint,
        images=images,
        num_images=len(paths),
        skipped=skipped,
        batch_size=batch_size,
        mask_ratio=model.backbone.mask_ratio,
        value_range=pipeline.loader.value_range,
        seed=seed,
        rule=rule_pair(cka),
        config_pairs=[as_pair(cka, *pair) for pair in configured],
        most_similar=most_similar(cka, [ours for ours, _ in configured]),
        most_similar_of_all_student_blocks=most_similar(cka, range(len(cka))),
        cka=cka.tolist())


def _drawn(folder: str, wanted: int, num_workers: int,
           generator: torch.Generator, loader: LoadImageOrSkip
           ) -> Tuple[List[str], List[Tuple[str, str]]]:
    """Paths of some images, and path and reason of what is none."""
    paths = paths_of(image_folder(folder))
    paths = [
        paths[index]
        for index in torch.randperm(len(paths), generator=generator)
    ]
    readable, skipped = [], []
    for path, problem in zip(paths,
                             problems(paths, num_workers, loader)):
        if problem is None:
            readable.append(path)
        else:
            skipped.append((path, problem))
        if len(readable) == wanted:
            break
    if len(readable) < MIN_EXAMPLES:
        named = first_few([f'{path!r} ({why})' for path, why in skipped])
        raise ValueError(
            f'{folder!r} has {len(readable)} readable images; CKA needs at '
            f'least {MIN_EXAMPLES}, and is noisy below some hundred.' +
            f' Not readable: {named}.' * bool(skipped))
    return readable, skipped


def chosen_teacher(section: dict, config: str,
                   name: Optional[str]) -> Tuple[str, dict]:
    """The teacher that the student is compared with.

    Args:
        section (dict): Section ``model`` of a config.
        config (str): Path of the config, for errors.
        name (str, optional): Of one of several teachers.

    Returns:
        tuple[str, dict]: Its option in the config, and the dict that has it
        as ``teacher``, with its ``aligned_layers``.

    Raises:
        ValueError: If there is none of that name, or it is not clear which
            one is meant.
    """
    several = section.get('teachers') or {}
    if not several and not section.get('teacher'):
        raise ValueError(f'The config {config} has no model.teacher to '
                         'compare the student with.')
    if name is None and not several:
        return 'model.teacher', section
    if name not in several:
        names = ', '.join(sorted(several))
        found = (f'has the teachers {names}: choose one with --teacher NAME'
                 if several else
                 'has a single teacher, without a name: leave out --teacher')
        given = '' if name is None else f'--teacher {name}: '
        raise ValueError(f'{given}The config {config} {found}.')
    return f'model.teachers.{name}.teacher', several[name]


def build_whole_teacher(cfg: dict,
                        student: StudentInput,
                        option: str = 'model.teacher') -> Teacher:
    """Build a teacher with all of its blocks, each of which is aligned.

    Args:
        cfg (dict): Section ``model.teacher`` of a config of :class:`DMAE`.
        student (StudentInput): The images of its student.
        option (str): Where that section stands, for errors. Defaults to
            'model.teacher'.

    Returns:
        Teacher: The teacher, on the CPU. Its weights are not yet read.

    Raises:
        ValueError: If it cannot be built.
    """

    def teacher(blocks: Sequence[int]) -> Teacher:
        return build(
            dict(cfg, aligned_blocks=blocks, student_input=student), option)

    first = teacher([0])  # one block is quickly built
    check_sees_patches(first)
    if 'block' not in first.taps:
        raise ValueError(
            f'model.teacher: a {type(first).__name__} shows no outputs of '
            'blocks of an encoder. Compare layers with an MMPretrainTeacher '
            'of the same backbone and checkpoint.')
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
    student_blocks = OutputRecorder(blocks)

    def by_place(tokens: BlockOutputs, num_prefix: int) -> BlockOutputs:
        # The k-th visible patch of each image: its place is random.
        return [block[:, num_prefix:].transpose(0, 1) for block in tokens]

    def features() -> Iterator[Tuple[BlockOutputs, BlockOutputs]]:
        for batch in batches:
            images = model.data_preprocessor(batch)['inputs']
            (latent, _, ids_restore), ours = student_blocks.record(
                backbone, images)
            num_visible = latent.shape[1] - backbone.num_extra_tokens  # K
            ids_keep = first_ids(ids_restore, num_visible)  # (B, K)
            theirs = teacher(images, ids_keep)
            yield (by_place(ours, prefix_tokens(backbone)[0]),
                   by_place(theirs, teacher.num_prefix_tokens))  # (K, B, C)

    return minibatch_cka(features())


def resolve_pairs(
        aligned_layers: Sequence[Tuple[Union[int, float], Union[int, float]]],
        student_blocks: int, teacher_blocks: int) -> List[Tuple[int, int]]:
    """The pairs of a config as 0-based blocks, of so many blocks.

    Raises:
        ValueError: If these are no pairs, or there is no such block.
    """
    check_pairs(aligned_layers)
    return [(resolve_block(ours, student_blocks, 'student'),
             resolve_block(theirs, teacher_blocks, 'teacher'))
            for ours, theirs in aligned_layers]


def as_pair(cka: torch.Tensor, student: int,
            teacher: int) -> Dict[str, Union[int, float]]:
    """A 'student' block and a 'teacher' block, 0-based, with their 'cka'."""
    return dict(
        student=student, teacher=teacher, cka=cka[student, teacher].item())


def rule_pair(cka: torch.Tensor) -> dict:
    """The paper's pair, three quarters of both depths: see :func:`as_pair`."""
    blocks, = resolve_pairs([(RULE_DEPTH, RULE_DEPTH)], *cka.shape)
    return as_pair(cka, *blocks)


def most_similar(cka: torch.Tensor,
                 student_blocks: Iterable[int]) -> List[dict]:
    """Some student blocks, each with the teacher's most similar block.

    Of equal ones the first, which costs least. See :func:`as_pair`.
    """
    best = cka.argmax(dim=1).tolist()
    return [as_pair(cka, block, best[block]) for block in student_blocks]
