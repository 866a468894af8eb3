"""Toy files of other libraries for a TimmTeacher: 16 patches of 8 px, three
blocks, 32 wide, two heads."""
import torch
from mmpretrain.registry import MODELS

from dmae_mm.weights import TensorFile

KWARGS = dict(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2)
BLOCKS = (0, 2)


def toy_images(size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, size, size, generator=generator)


def saved(folder, content, name: str = 'weights.pth') -> str:
    path = str(folder / name)
    torch.save(content, path)
    return path


def big_file(model, **tensors) -> TensorFile:
    """A file as of a big model on the meta device, almost without memory."""
    sizes = {
        name: torch.zeros(()).expand(tensor.shape)
        for name, tensor in model.state_dict().items()
    }
    return TensorFile('big.pth', '', 0, {**sizes, **tensors}, [])


def teacher_of(path: str, model_name: str, kwargs: dict = KWARGS, **options):
    """A teacher that has read the file."""
    teacher = MODELS.build(
        dict(
            type='TimmTeacher',
            model_name=model_name,
            model_kwargs=dict(kwargs),
            checkpoint=path,
            aligned_blocks=BLOCKS,
            **options))
    teacher.init_weights()
    return teacher


def assert_features(teacher, wanted, images=None) -> None:
    """The teacher's, with all patches, against those of :data:`BLOCKS`.

    Args:
        teacher (Teacher): Its own features of all patches, in order, too.
        wanted (Sequence[torch.Tensor]): (B, P + N, C), CLS first.
        images (torch.Tensor, optional): Defaults to :func:`toy_images`.
    """
    images = toy_images() if images is None else images
    number = wanted[0].shape[1] - teacher.num_prefix_tokens
    ids_keep = torch.arange(number).expand(len(images), -1)
    for ids in (None, ids_keep):
        features = teacher(images, ids)
        assert len(features) == len(wanted)
        for feature, other in zip(features, wanted):
            torch.testing.assert_close(
                feature, other.detach(), rtol=1e-5, atol=1e-5)
    # Not the features of any network.
    assert (wanted[0] - wanted[1]).abs().max() > .01


@torch.no_grad()
def timm_features(model, images=None):
    """timm's own, prefix tokens first."""
    prefixed = model.num_prefix_tokens > 0
    outputs = model.forward_intermediates(
        toy_images() if images is None else images,
        indices=list(BLOCKS),
        return_prefix_tokens=prefixed,
        output_fmt='NLC',
        intermediates_only=True)
    return [torch.cat([prefix, patches], 1) for patches, prefix in outputs
            ] if prefixed else outputs
