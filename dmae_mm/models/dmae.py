from typing import Dict, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
from mmpretrain.models.selfsup import BaseSelfSupervisor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from dmae_mm.host import use_plain_numbers
from dmae_mm.options import reject_unknown_options

from .checks import (check_backbone, check_learns, check_mask_ratio,
                     check_predict_ratio, check_preprocessor,
                     check_sees_patches, check_sizes)
from .data_preprocessor import with_any_channels
from .distillation import Block
from .distillations import Distillations, distillation_options
from .mmpretrain_vits import check_arch
from .necks import CrossAttentionDecoder
from .student import Student
from .students import MASKED_STUDENTS
from .teachers import Teacher
from .unreached import freeze_unreached


@MODELS.register_module()
@reject_unknown_options
class DMAE(BaseSelfSupervisor):
    """Masked autoencoder that learns from a frozen teacher's block outputs.

    `Masked Autoencoders Enable Efficient Knowledge Distillers
    <https://arxiv.org/abs/2208.12256>`_: while the student reconstructs the
    masked patches, the outputs of some of its blocks are projected to the
    teacher's width and aligned with the teacher's, which sees the same
    visible patches and stops after its last aligned block.

    In shapes, B are images, L their patches, K the visible ones, P the prefix
    tokens in front of them (CLS and registers), C channels.

    With ``teacher=None`` and no aligned layers this is plain MAE, the control
    of an experiment; ``distill_neck`` and ``distill_loss`` are then not built.
    ``teachers`` takes the place of ``teacher`` and the options that follow it
    and gives them for each of several teachers.

    Args:
        backbone (dict): The student, a ``MAEViT`` or ``MAEHiViT`` of any
            architecture, or a :class:`MaskedTimmViT`.
        neck (dict, optional): The decoder, as in mmpretrain's MAE, or a
            :class:`CrossAttentionDecoder`, which predicts fewer patches.
            Defaults to None: nothing is reconstructed, as in TinyMIM. The
            student's last block must then be aligned.
        head (dict, optional): The pixel reconstruction head, as in
            mmpretrain's MAE. Defaults to None: no pixels are predicted. With
            a decoder, its last block must then be aligned, as in G2SD.
        teacher (dict, optional): The teacher: a :class:`TimmTeacher` or
            :class:`MMPretrainTeacher`. Defaults to None.
        aligned_layers (Sequence[tuple]): Pairs of (student block, teacher
            block): 0-based ints, negative from the end, or depth fractions
            in (0, 1]: (0.75, 0.75) is block ``round(0.75 * depth) - 1`` of
            each. Blocks of a ``HiViT`` are those of its main stage. Defaults
            to ().
        distill_neck (dict, optional): Gets the widths and the number of pairs
            from here. Defaults to None: a linear
            :class:`FeatureProjectionNeck`, unless the loss compares
            relations, which need none.
        distill_loss (dict, optional): Defaults to None: a
            :class:`FeatureAlignmentLoss` with L1 on normalised features.
        teacher_mask_ratio (float, optional): Part of the patches that is
            hidden from the teacher, from 0 to the student's ``mask_ratio``.
            The teacher sees the student's visible patches and, at random, as
            many more as that leaves. Defaults to None: the same as the
            student, as in the paper.
        target (dict, optional): What standardises the teacher's features
            before they are compared: :class:`Standardize` or
            :class:`PHIStandardize`. Defaults to None.
        generator (dict, optional): A :class:`FeatureGenerationNeck`, which
            predicts the teacher's features of those patches that only the
            teacher sees, as in AMD. Adds ``loss_generate_...`` to each
            ``loss_align_...``, by the same ``distill_loss``. Defaults to
            None.
        teachers (dict, optional): Several teachers: by a name of letters,
            digits and '_', a dict of ``teacher``, ``aligned_layers``,
            ``distill_neck``, ``distill_loss``, ``mask_ratio`` (above:
            ``teacher_mask_ratio``), ``target`` and ``generator``. Defaults to
            None.
        teacher_dropping (float, optional): With several teachers: of each
            image, the one with the largest loss stays and each other one is
            dropped with this probability, from 0 to 1. The loss is then the
            mean over what is kept, and not the sum over the teachers:
            see :func:`teacher_dropping`. Defaults to None.
        data_preprocessor (dict, optional): As in mmpretrain.
        init_cfg (dict | list[dict], optional): As in mmpretrain. It reaches
            neither the projectors nor the teacher.

    Raises:
        ValueError: If the parts do not fit together; the message names the
            option, its value and the legal values.
    """

    def __init__(self,
                 backbone: dict,
                 neck: Optional[dict] = None,
                 head: Optional[dict] = None,
                 teacher: Optional[dict] = None,
                 aligned_layers: Sequence[Tuple[Block, Block]] = (),
                 distill_neck: Optional[dict] = None,
                 distill_loss: Optional[dict] = None,
                 teacher_mask_ratio: Optional[float] = None,
                 target: Optional[dict] = None,
                 generator: Optional[dict] = None,
                 teachers: Optional[Dict[str, dict]] = None,
                 teacher_dropping: Optional[float] = None,
                 data_preprocessor: Optional[Union[dict, nn.Module]] = None,
                 init_cfg: Optional[Union[dict, List[dict]]] = None) -> None:
        options = distillation_options(
            teachers,
            teacher=teacher,
            aligned_layers=aligned_layers,
            distill_neck=distill_neck,
            distill_loss=distill_loss,
            mask_ratio=teacher_mask_ratio,
            target=target,
            generator=generator)
        check_arch('backbone', backbone)
        if neck is None and head is not None:
            raise ValueError(
                f'head={head!r} predicts pixels from the output of a decoder, '
                'but neck=None. Give a neck, or set head=None.')
        super().__init__(
            backbone=backbone,
            neck=neck,
            head=head,
            data_preprocessor=with_any_channels(data_preprocessor),
            init_cfg=init_cfg)
        use_plain_numbers(self)  # or torch.compile would stop at NumPy's
        check_backbone(self.backbone, MASKED_STUDENTS)
        check_sizes(self.backbone, self.neck, self.head)
        check_preprocessor(self.data_preprocessor, self.backbone)
        check_mask_ratio(self.backbone, bool(options))
        check_predict_ratio(self.neck, self.backbone)
        student = Student.of_vit(self.backbone, self.data_preprocessor,
                                 self.neck)
        self.distillations = Distillations(student, options, teacher_dropping)
        for each in self.teachers.values():
            check_sees_patches(each)
        self.distillations.register_in(self)
        if self.head is None:
            freeze_unreached(self, student)

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
            dict[str, torch.Tensor]: ``loss_recon`` and of each aligned pair
            ``loss_align_s{student block}_t{teacher block}``; with several
            teachers ``loss_align_{name}_s..._t...``.
        """
        # Each of the student's features is (B, P + K, C_student).
        (losses, ids_restore, num_visible), student_features = (
            self.distillations.record(self.student_step, inputs))
        losses.update(
            self.distillations.losses(inputs, student_features, ids_restore,
                                      num_visible))
        return losses

    def student_step(
        self, inputs: torch.Tensor
    ) -> Tuple[Dict[str, torch.Tensor], torch.Tensor, int]:
        """What the student does without a teacher.

        Args:
            inputs (torch.Tensor): Normalised images, (B, 3, H, W).

        Returns:
            tuple: Of :meth:`reconstruction_loss`, MAE's permutation (B, L),
            and K.
        """
        latent, mask, ids_restore = self.backbone(inputs)
        losses = self.reconstruction_loss(inputs, latent, mask, ids_restore)
        num_visible = latent.shape[1] - self.backbone.num_extra_tokens  # K
        return losses, ids_restore, num_visible

    def reconstruction_loss(
            self, inputs: torch.Tensor, latent: torch.Tensor,
            mask: torch.Tensor,
            ids_restore: torch.Tensor) -> Dict[str, torch.Tensor]:
        """Mean squared error of the masked patches, as in MAE.

        With a :class:`CrossAttentionDecoder`: of those that it predicts.

        Args:
            inputs (torch.Tensor): Normalised images, (B, 3, H, W).
            latent (torch.Tensor): Student's output, (B, P + K, C_student):
                CLS, where it has one, and the visible patches.
            mask (torch.Tensor): 1 where a patch is masked, (B, L).
            ids_restore (torch.Tensor): MAE's permutation, (B, L).

        Returns:
            dict[str, torch.Tensor]: ``loss_recon``; 0 with
            ``mask_ratio=0``, where nothing is left to reconstruct. Nothing
            without a head.

        Raises:
            ValueError: If there is neither a head nor a teacher.
        """
        if self.head is None:
            check_learns(len(self.distillations) > 0)
        if self.neck is None:
            return {}
        if self.backbone.num_extra_tokens == 0:
            # MAE's decoder takes the first token for CLS. A token of zeros
            # stands there for a student that has none, such as HiViT.
            latent = nn.functional.pad(latent, (0, 0, 1, 0))
        if isinstance(self.neck, CrossAttentionDecoder):
            # (B, M, pixels of a patch), (B, M)
            pred, ids_predict = self.neck(latent, ids_restore)
            target = self.head.construct_target(inputs).gather(
                1, ids_predict[..., None].expand_as(pred))
            return dict(loss_recon=self.head.loss_module(pred, target))
        pred = self.neck(latent, ids_restore)  # (B, L, pixels of a patch)
        if self.head is None:
            return {}
        if latent.shape[1] == pred.shape[1] + 1:
            return dict(loss_recon=pred.sum() * 0.)
        return dict(loss_recon=self.head.loss(pred, inputs, mask))

    def extract_feat(self, inputs: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        """Features of whole images, without masking and without teacher.

        Args:
            inputs (torch.Tensor): Normalised images, (B, 3, H, W).

        Returns:
            tuple[torch.Tensor]: The backbone's outputs; by default one
            (B, 1 + L, C_student) tensor, of a HiViT (B, C_student, rows,
            columns).
        """
        return self.backbone(inputs, mask=None)
