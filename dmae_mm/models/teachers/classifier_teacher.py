import copy
import hashlib
from typing import Any, Dict, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
from mmpretrain.models import ClsHead, ImageClassifier, VisionTransformer
from mmpretrain.registry import MODELS

from dmae_mm.host import quietly
from dmae_mm.models import mmpretrain_vits as vits
from dmae_mm.models.tokens import OutputRecorder, resolve_block
from dmae_mm.models.student_input import StudentInput, input_channels
from dmae_mm.options import reject_unknown_options
from dmae_mm.weights import TensorFile, mae_to_mmpretrain
from dmae_mm.weights.names import COMPUTED, layout_of
from dmae_mm.weights.origin import origin_of
from dmae_mm.weights.positions import other_meaning

from .teacher import Teacher, fixed_seed
from .teacher_weights import refuse_other_meaning, take_weights


@MODELS.register_module()
@reject_unknown_options
class ClassifierTeacher(Teacher):
    """A whole, fine-tuned classifier of mmpretrain as teacher of classifiers.

    It gives logits, whatever its backbone, and in the same pass the outputs
    of blocks, if its backbone is a plain vision transformer or a ``HiViT``
    with the student's grid of patches.

    Args:
        model (dict): The ``model`` of its config as it is. Of it,
            ``backbone``, ``neck`` and ``head`` are built, and ``mean`` and
            ``std`` of a ``data_preprocessor`` in it are the defaults of those
            below.
        aligned_blocks (Sequence[int | float]): Teacher block of each aligned
            pair: see :func:`resolve_block`. A :class:`Distillation` fills it
            in. Defaults to (), logits alone.
        student_input (StudentInput, optional):
            :class:`Distillation` fills it in. With None the
            teacher takes images of its own normalisation.
        checkpoint (str, optional): Path or http(s) URL of the weights, head
            included: a checkpoint of mmpretrain or of this package, or, for a
            ``VisionTransformer`` with ``LinearClsHead``, a file of FAIR's
            MAE, fine-tuned; ``.pth`` or ``.safetensors``. Defaults to None,
            which is only legal with ``allow_random``.
        sha256 (str, optional): See :class:`Teacher`.
        img_size (int | tuple[int, int], optional): Height and width to which
            images are resized for a backbone that does not say its own.
            Defaults to None: the backbone's, or, as convolutional ones take
            any, that of the student's images.
        mean (Sequence[float], optional): What the teacher wants subtracted
            from pixel values of 0 to 255, per channel. Defaults to what the
            checkpoint says, or else to the student's.
        std (Sequence[float], optional): By what it wants them divided.
        dtype (str): See :class:`Teacher`. Defaults to 'float32'.
        channels (Sequence[int], optional): See :class:`Teacher`.
        allow_random (bool): Teach with random weights (drawn with a fixed
            seed). Defaults to False.

    Raises:
        ValueError: If ``model`` is no such classifier, a block does not
            exist, or the student's images cannot be matched.
    """

    reads_timm = True

    def __init__(self,
                 model: dict,
                 aligned_blocks: Sequence[Union[int, float]] = (),
                 student_input: Optional[StudentInput] = None,
                 checkpoint: Optional[str] = None,
                 sha256: Optional[str] = None,
                 img_size: Optional[Union[int, Tuple[int, int]]] = None,
                 mean: Optional[Sequence[float]] = None,
                 std: Optional[Sequence[float]] = None,
                 dtype: str = 'float32',
                 channels: Optional[Sequence[int]] = None,
                 allow_random: bool = False) -> None:
        parts = _parts(model)
        vits.check_arch('teacher.model.backbone', parts['backbone'])
        with fixed_seed():
            network = ImageClassifier(**parts)
            if checkpoint is None and allow_random:
                with quietly():
                    network.init_weights()
        if not has_single_logits(network.head):
            raise ValueError(
                f'teacher.model.head: a {type(network.head).__name__} does '
                'not return one tensor of logits over classes. Choose a '
                'teacher with LinearClsHead or another such head.')
        backbone, aligned, features = network.backbone, (), {}
        own_size = getattr(backbone, 'img_size',
                           parts['backbone'].get('img_size'))
        if aligned_blocks:
            if type(backbone) not in vits.TOKEN_BACKBONES:
                names = [cls.__name__ for cls in vits.TOKEN_BACKBONES]
                raise ValueError(
                    f'teacher.model.backbone: a {type(backbone).__name__} has '
                    'no blocks of tokens to align features with. Choose one '
                    f'of {names}, or set aligned_layers=[] to distil logits '
                    'alone.')
            blocks = vits.blocks(backbone)
            own_size = vits.img_size(backbone)
            aligned = tuple(
                resolve_block(index, len(blocks), 'teacher')
                for index in aligned_blocks)
            features = dict(
                patch_grid=vits.patch_grid(backbone),
                embed_dims=backbone.embed_dims,
                num_layers=len(blocks),
                num_prefix_tokens=backbone.num_extra_tokens,
                has_cls_token=getattr(backbone, 'cls_token', None) is not None)
        preprocessor = model.get('data_preprocessor') or {}
        if mean is None and std is None:
            mean, std = (preprocessor.get(name) for name in ('mean', 'std'))
        super().__init__(
            network=network,
            aligned_blocks=aligned,
            img_size=_image_size(own_size, img_size),
            in_channels=input_channels(backbone),
            checkpoint=checkpoint,
            sha256=sha256,
            mean=mean,
            std=std,
            dtype=dtype,
            channels=channels,
            student_input=student_input,
            allow_random=allow_random,
            **features)
        self.num_classes = getattr(network.head, 'num_classes', None)
        self.recorder = OutputRecorder(
            [vits.blocks(backbone)[index] for index in aligned])

    def load_weights(self, file: TensorFile) -> None:
        """Fill the classifier from a checkpoint, strictly.

        Args:
            file (TensorFile): The tensors of ``checkpoint``.

        Raises:
            ValueError: If a tensor of backbone, neck or head is missing, has
                another shape or values that are not finite, or if the file
                has tensors that this classifier does not have. Nothing is
                loaded then.
        """
        tensors, layout = file.tensors, layout_of(file.tensors)
        if layout == 'timm/MAE' and type(
                self.network.backbone) is VisionTransformer:
            try:
                tensors = mae_to_mmpretrain(tensors)
            except ValueError as error:
                raise ValueError(
                    f'The teacher checkpoint {file.source} cannot be used: '
                    f'{error}') from None
        # A distilled classifier has projectors, which it does not need.
        tensors = {
            name: tensor
            for name, tensor in tensors.items()
            if not name.startswith('distill_')
        }
        own = self.network.state_dict()
        needed = {
            name: tensor.shape
            for name, tensor in own.items()
            if tensor.is_floating_point() and not COMPUTED.fullmatch(name)
        }
        weights = take_weights(
            file, layout or 'unknown names', tensors, needed, own.keys(),
            self.dtype,
            f'a classifier of {type(self.network.backbone).__name__} and '
            f'{type(self.network.head).__name__}', 'teacher.model')
        refuse_other_meaning(
            file,
            other_meaning(self.network, weights,
                          origin_of(file.meta, file.tensors)),
            'teacher.model')
        self.network.load_state_dict(weights, strict=False)

    def forward(
        self, images: torch.Tensor
    ) -> Tuple[torch.Tensor, Tuple[torch.Tensor, ...]]:
        """Logits, and features at the aligned blocks.

        Args:
            images (torch.Tensor): The student's normalised images,
                (B, 3, H, W).

        Returns:
            tuple: The logits, (B, classes), and for each aligned pair the
            output of its teacher block, (B, P + L, C), the P prefix tokens
            first. float32, no gradient.
        """
        logits, *features = self.run_frozen(self.extract_features, images)
        return logits, tuple(features)

    def extract_features(self,
                         images: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        """Logits and features of images that are the teacher's own."""
        logits, features = self.recorder.record(self.network, images)
        return (logits, *features)

    def fingerprint(self) -> str:
        """See :meth:`Teacher.fingerprint`; here also of ``img_size``."""
        said = f'{super().fingerprint()} {self.img_size}'
        return hashlib.sha256(said.encode()).hexdigest()


def _parts(model: Any) -> Dict[str, Optional[dict]]:
    """Backbone, neck and head of a classifier's config."""
    if not isinstance(model, dict):
        raise ValueError(f'teacher: model={model!r} is not a dict. Give the '
                         '"model" of the config of the classifier.')
    kind = model.get('type', ImageClassifier)
    cls = MODELS.get(kind) if isinstance(kind, str) else kind
    if cls is None or not issubclass(cls, ImageClassifier):
        raise ValueError(f'teacher.model: type={kind!r} is not an '
                         'ImageClassifier. Give the "model" of the config of '
                         'a classifier of mmpretrain.')
    for part in ('backbone', 'head'):
        if not isinstance(model.get(part), dict):
            raise ValueError(f'teacher.model: {part}={model.get(part)!r} is '
                             'not a dict. A teacher is a whole classifier: '
                             'give its backbone and its head.')
    # Initial weights are those of the checkpoint. The host changes lists in
    # its configs, so these are copies.
    return {
        part: cfg and {
            name: copy.deepcopy(value)
            for name, value in cfg.items() if name != 'init_cfg'
        }
        for part, cfg in ((part, model.get(part))
                          for part in ('backbone', 'neck', 'head'))
    }


def _image_size(
        own: Any, given: Optional[Union[int, Tuple[int, int]]]
) -> Optional[Tuple[int, int]]:
    """Height and width of the teacher's images, if it minds."""
    own, given = ((size, size) if isinstance(size, int) else size and
                  tuple(size) for size in (own, given))
    if given is not None and (len(given) != 2 or not all(
            isinstance(side, int) and side > 0 for side in given)):
        raise ValueError(f'teacher: img_size={given!r} is not a number of '
                         'pixels above 0, or two: height and width.')
    if None not in (own, given) and own != given:
        raise ValueError(
            f'teacher: img_size={given!r}, but its backbone is built for '
            f'{own!r}. Remove img_size: images are resized to the size in '
            'teacher.model.backbone.img_size.')
    return own or given


def has_single_logits(head: Optional[nn.Module]) -> bool:
    """Whether a head returns one tensor, of which softmax is taken."""
    return isinstance(
        head, ClsHead) and type(head)._get_loss is ClsHead._get_loss
