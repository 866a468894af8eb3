from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from mmpretrain.models.selfsup import BaseSelfSupervisor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from dmae_mm.host import use_plain_numbers
from dmae_mm.messages import first_few
from dmae_mm.options import is_finite_number, reject_unknown_options

from .checks import check_preprocessor, check_sees_patches
from .data_preprocessor import with_any_channels
from .distillation import Block, Distillation
from .distillations import Distillations, distillation_options
from .feature_maps import build_backbone, look_at, map_backbone, on_grid
from .student import Student, num_seen
from .student_input import StudentInput
from .students import outputs_of_whole_images
from .teachers import Teacher


@MODELS.register_module()
@reject_unknown_options
class FeatureDistiller(BaseSelfSupervisor):
    """Any backbone that learns the features of a frozen teacher.

    No labels and no decoder: the maps of some of the student's stages are
    projected to the teacher's width and aligned with the tokens of its
    patches, as :class:`DMAE` does with blocks of vision transformers. A model
    of a student without patches, down to a MobileNet, as feature distillation
    does it (`Contrastive Learning Rivals Masked Image Modeling in Fine-tuning
    via Feature Distillation <https://arxiv.org/abs/2205.14141>`_)::

        model = dict(
            type='FeatureDistiller',
            backbone=dict(type='ResNet', depth=50),
            teacher=dict(type='TimmTeacher', pretrained=True,
                         model_name='vit_base_patch14_dinov2.lvd142m'),
            aligned_layers=[(-1, -1)])

    In shapes, B are images, (h, w) the places of a map of the student, (R, S)
    the rows and columns of the teacher's patches. Both sides meet on the
    teacher's grid, before the projectors: see :func:`on_grid`. The teacher
    sees the whole images, resized to the largest of their aspect that fit
    into its own size: see :meth:`Teacher.grid_of`.

    How many stages the student has and how wide they are is found when the
    model is built. What it needs to return the maps of the aligned stages
    (``out_indices``, ``out_type='featmap'``, ``gap_before_final_norm=False``,
    ``features_only=True`` of a ``TIMMBackbone``, ...) is set, where its
    config does not say otherwise. What lies behind the last aligned stage
    learns nothing: it is frozen, and the log says so.

    The checkpoint holds the backbone under ``backbone.``.

    Args:
        backbone (dict): The student: a backbone that returns maps, of
            mmpretrain, of another package of OpenMMLab (``'mmdet.ResNet'``)
            or a ``TIMMBackbone``.
        teacher (dict, optional): The teacher: a :class:`TimmTeacher` or
            :class:`MMPretrainTeacher`. Defaults to None: see ``teachers``.
            With neither, and ``aligned_layers=[]``, there is nothing to
            learn: the backbone alone, to extract features.
        aligned_layers (Sequence[tuple], optional): Pairs of (student stage,
            teacher block): 0-based ints, negative from the end, or depth
            fractions in (0, 1]. Stages are those of the backbone's
            ``out_indices``; of one without this option, its outputs. Defaults
            to None: [(-1, -1)], the last of each, of every teacher.
        distill_neck (dict, optional): As in :class:`DMAE`.
        distill_loss (dict, optional): As in :class:`DMAE`. It compares all
            patches, masked ones too.
        target (dict, optional): As in :class:`DMAE`.
        teachers (dict, optional): As in :class:`DMAE`, without
            ``mask_ratio``.
        teacher_dropping (float, optional): As in :class:`DMAE`.
        mask_ratio (float): Part of the teacher's patches that is hidden from
            the student, from 0 up to 1: these regions of its images are set
            to 0, the mean of normalised images, and it has to predict the
            teacher's features there. Which ones is drawn for each image; of
            several teachers, the patches of the first by name count. Defaults
            to 0.0: the student sees whole images.
        align_cls (bool): Whether the mean of each aligned map, as one more
            token in front of the others, is aligned with the teacher's CLS.
            Defaults to False.
        data_preprocessor (dict, optional): As in mmpretrain.
        init_cfg (dict | list[dict], optional): As in mmpretrain. It reaches
            neither the projectors nor the teacher.

    Raises:
        ValueError: If the parts do not fit together; the message names the
            option, its value and the legal values.
    """

    def __init__(self,
                 backbone: dict,
                 teacher: Optional[dict] = None,
                 aligned_layers: Optional[Sequence[Tuple[Block,
                                                         Block]]] = None,
                 distill_neck: Optional[dict] = None,
                 distill_loss: Optional[dict] = None,
                 target: Optional[dict] = None,
                 teachers: Optional[Dict[str, dict]] = None,
                 teacher_dropping: Optional[float] = None,
                 mask_ratio: float = 0.0,
                 align_cls: bool = False,
                 data_preprocessor: Optional[Union[dict, nn.Module]] = None,
                 init_cfg: Optional[Union[dict, List[dict]]] = None) -> None:
        if not is_finite_number(mask_ratio) or not 0 <= mask_ratio < 1:
            raise ValueError(f'mask_ratio={mask_ratio!r} is not a number from '
                             '0 up to, but not including, 1.')
        options = _options(
            teachers,
            teacher=teacher,
            aligned_layers=aligned_layers,
            distill_neck=distill_neck,
            distill_loss=distill_loss,
            target=target)
        aligned = _aligned_stages(options)
        cfg, num_stages = map_backbone(backbone, aligned)
        super().__init__(
            backbone=build_backbone(cfg),
            data_preprocessor=with_any_channels(data_preprocessor),
            init_cfg=init_cfg)
        use_plain_numbers(self)  # or torch.compile would stop at NumPy's
        check_preprocessor(self.data_preprocessor, self.backbone)
        self.maps = look_at(self.backbone, cfg, num_stages, aligned)
        self.mask_ratio = mask_ratio
        self.align_cls = align_cls
        self._freeze_unused()
        self.distillations = Distillations(self._student(), options,
                                           teacher_dropping)
        for part in self.distillations:
            self._check_teacher(part)
        self.distillations.register_in(self)

    @property
    def teacher(self) -> Optional[Teacher]:
        """The teacher, if there is a single one."""
        return self.teachers.get('')

    @property
    def teachers(self) -> Dict[str, Teacher]:
        """Each teacher by its name; that of a single one is ''."""
        return self.distillations.teachers

    def init_weights(self) -> None:
        """Initialise the student and read the teachers' checkpoints."""
        self.distillations.init_weights(next(self.parameters()).device)
        super().init_weights()

    def loss(self, inputs: torch.Tensor,
             data_samples: List[DataSample]) -> Dict[str, torch.Tensor]:
        """One training step's losses.

        Args:
            inputs (torch.Tensor): Normalised images, (B, 3, H, W).
            data_samples (list[DataSample]): Not used: no labels are needed.

        Returns:
            dict[str, torch.Tensor]: For each aligned pair
            ``loss_align_s{student stage}_t{teacher block}``; with several
            teachers ``loss_align_{name}_s..._t...``.

        Raises:
            ValueError: If batch norms cannot normalise this batch, or the
                images do not fit a teacher.
        """
        _check_batch_norms(self.backbone, inputs)
        maps = self.aligned_maps(self.masked(inputs))
        features = [
            self.tokens(part, maps, tuple(inputs.shape[-2:]))
            for part in self.distillations
        ]
        return self.distillations.losses(inputs, features)

    def masked(self, inputs: torch.Tensor) -> torch.Tensor:
        """Images of which a random part of the patches is 0.

        Args:
            inputs (torch.Tensor): Normalised images, (B, C, H, W).

        Returns:
            torch.Tensor: (B, C, H, W). With ``mask_ratio=0`` the same.

        Raises:
            ValueError: If no patch of these images would be left.
        """
        if self.mask_ratio == 0:
            return inputs
        first = next(iter(self.teachers.values()))
        rows, columns = first.grid_of(*inputs.shape[-2:])
        num_patches = rows * columns
        num_visible = num_seen(num_patches, self.mask_ratio)
        if num_visible == 0:
            raise ValueError(
                f'mask_ratio={self.mask_ratio} leaves none of the {rows} x '
                f'{columns} patches visible. It must be at most '
                f'{1 - 1 / num_patches:.4f} for these images.')
        noise = torch.rand(len(inputs), num_patches, device=inputs.device)
        ranks = noise.argsort(dim=1).argsort(dim=1)
        visible = (ranks < num_visible).to(inputs.dtype)  # (B, L)
        visible = F.interpolate(
            visible.view(-1, 1, rows, columns), size=inputs.shape[-2:])
        return inputs * visible

    def aligned_maps(self, inputs: torch.Tensor) -> Dict[int, torch.Tensor]:
        """Maps of the student by the index of their stage.

        Args:
            inputs (torch.Tensor): Normalised images, (B, C, H, W).

        Returns:
            dict[int, torch.Tensor]: (B, C_stage, h, w) each.
        """
        outputs = self.extract_feat(inputs)
        return {
            stage: output
            for stage, output in zip(self.maps.stages, outputs)
            if stage in self.maps.widths
        }

    def tokens(self, part: Distillation, maps: Dict[int, torch.Tensor],
               size: Tuple[int, int]) -> List[torch.Tensor]:
        """What a teacher's features are compared with, on its grid.

        Args:
            part (Distillation): Of this teacher.
            maps (dict[int, torch.Tensor]): As of :meth:`aligned_maps`.
            size (tuple[int, int]): Height and width of the images.

        Returns:
            list[torch.Tensor]: For each pair (B, [1 +] R * S, C_stage), the
            mean of the map in front if it is aligned with CLS.
        """
        grid = part.teacher.grid_of(*size)
        tokens = {
            stage: on_grid(maps[stage], grid)
            for stage in {*part.student_blocks}
        }
        if self.align_cls:
            tokens = {
                stage: torch.cat(
                    [maps[stage].mean(dim=(2, 3)).unsqueeze(1), each], dim=1)
                for stage, each in tokens.items()
            }
        return [tokens[stage] for stage in part.student_blocks]

    def extract_feat(self, inputs: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        """Features of whole images, without teacher.

        Args:
            inputs (torch.Tensor): Normalised images, (B, C, H, W).

        Returns:
            tuple[torch.Tensor]: The backbone's outputs, (B, C_stage, h, w)
            each, those of later stages last.
        """
        return outputs_of_whole_images(self.backbone, inputs)

    def _student(self) -> Student:
        maps = self.maps
        return Student(
            StudentInput.of(self.backbone, self.data_preprocessor),
            # What a stage consists of is not known. The model hands out its
            # maps itself.
            modules=dict(block=[self.backbone] * maps.num_stages),
            embed_dims=dict(block=[
                maps.widths.get(stage, 0) for stage in range(maps.num_stages)
            ]),
            num_prefix_tokens=int(self.align_cls),
            has_cls_token=self.align_cls)

    def _freeze_unused(self) -> None:
        """No optimizer, weight decay or DDP has to do with what does not
        learn."""
        parameters = dict(self.backbone.named_parameters())
        for name in self.maps.unused:
            parameters[name].requires_grad = False
        if self.maps.unused:
            print_log(
                f'FeatureDistiller: {len(self.maps.unused)} of '
                f'{len(parameters)} parameters of the backbone have no part '
                f'in the aligned stages {sorted(self.maps.widths)} and are '
                f'frozen: {first_few(self.maps.unused, 3)}.' +
                ' Align the last stage (-1) to train the whole backbone.' *
                (self.maps.num_stages - 1 not in self.maps.widths),
                logger='current')

    def _check_teacher(self, part: Distillation) -> None:
        """Refuse a teacher that cannot teach what is asked for."""
        check_sees_patches(part.teacher)
        if not self.align_cls:
            return
        if not part.teacher.has_cls_token:
            raise ValueError(
                'align_cls=True, but the teacher, a '
                f'{type(part.teacher).__name__}, has no CLS token. Set '
                'align_cls=False, or give a teacher with one.')
        if getattr(part.loss, 'tokens', 'shared') != 'shared':
            raise ValueError(
                f'align_cls=True, but a {type(part.loss).__name__} compares '
                'patches alone. Set align_cls=False, or choose another '
                'distill_loss.')


def trained_backbone(model: dict) -> dict:
    """The config of the backbone that a model has.

    Args:
        model (dict): Config of a model of any type.

    Returns:
        dict: Its section ``backbone``; of a :class:`FeatureDistiller` with
        what this sets in it.

    Raises:
        ValueError: As the model would.
    """
    kind = model.get('type')
    if (MODELS.get(kind) if isinstance(kind, str) else
            kind) is not FeatureDistiller:
        return model['backbone']
    options = _options(
        model.get('teachers'),
        teacher=model.get('teacher'),
        aligned_layers=model.get('aligned_layers'))
    return map_backbone(model['backbone'], _aligned_stages(options))[0]


def _options(teachers: Optional[dict], **single: Any) -> Dict[str, dict]:
    """Options of each distillation, with the pairs that are not given."""
    last = [(-1, -1)]
    if isinstance(teachers, dict):
        teachers = {
            name: dict(aligned_layers=last, **options) if isinstance(
                options, dict) and 'aligned_layers' not in options else options
            for name, options in teachers.items()
        }
        if single['aligned_layers'] is None:
            single['aligned_layers'] = ()
    elif single['aligned_layers'] is None:
        single['aligned_layers'] = last
    return distillation_options(teachers, **single)


def _aligned_stages(options: Dict[str, dict]) -> List[Block]:
    return [stage for each in options.values()
            for stage, _ in each['aligned_layers']] or [-1]


def _check_batch_norms(backbone: nn.Module, inputs: torch.Tensor) -> None:
    """Refuse a batch that batch norms in training mode cannot normalise."""
    processes = dist.get_world_size() if (
        dist.is_available() and dist.is_initialized()) else 1
    on_cpu = processes > 1 and inputs.device.type == 'cpu'
    if len(inputs) > 1 and not on_cpu:
        return
    for name, module in backbone.named_modules():
        if not isinstance(module, _BatchNorm) or not module.training:
            continue
        synchronised = isinstance(module, nn.SyncBatchNorm)
        if synchronised and on_cpu:
            raise ValueError(
                f"backbone: {name} is a SyncBatchNorm, which works on GPUs "
                "only. Set norm_cfg=dict(type='BN') and leave out sync_bn.")
        if len(inputs) == 1 and not (synchronised and processes > 1):
            raise ValueError(
                f'A batch of one image, and {name} of the backbone is a batch '
                'norm in training mode, which normalises by the statistics '
                'of the batch. Set train_dataloader.batch_size to 2 or more '
                'and train_dataloader.drop_last=True (the last batch of an '
                'epoch may be smaller), or backbone.norm_eval=True, where '
                'the backbone has it.')
