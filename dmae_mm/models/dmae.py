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
from .students import (MASKED_STUDENTS, STOCK_BACKBONES,
                       outputs_of_whole_images, stock_student)
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

    Beside MAE's students it takes those of SimMIM and SparK, with their own
    decoders, heads and losses: see :class:`SimMIMStudent` and
    :class:`SparKStudent`. Of them, stages of maps are aligned, in the regions
    that are visible.

    With ``teacher=None`` and no aligned layers this is plain MAE (SimMIM,
    SparK), the control of an experiment; ``distill_neck`` and
    ``distill_loss`` are then not built.
    ``teachers`` takes the place of ``teacher`` and the options that follow it
    and gives them for each of several teachers.

    Args:
        backbone (dict): The student, a ``MAEViT`` or ``MAEHiViT`` of any
            architecture, a :class:`MaskedTimmViT`, or a
            ``SimMIMSwinTransformer``, ``SparseResNet`` or ``SparseConvNeXt``.
        neck (dict, optional): The decoder, as in mmpretrain's MAE (SimMIM,
            SparK), or a :class:`CrossAttentionDecoder`, which predicts fewer
            patches. Defaults to None: nothing is reconstructed, as in
            TinyMIM. The student's last block must then be aligned.
        head (dict, optional): The pixel reconstruction head, as in
            mmpretrain's. Defaults to None: no pixels are predicted. With a
            decoder, its last block must then be aligned, as in G2SD.
        teacher (dict, optional): The teacher: a :class:`TimmTeacher` or
            :class:`MMPretrainTeacher`. Defaults to None.
        aligned_layers (Sequence[tuple]): Pairs of (student block, teacher
            block): 0-based ints, negative from the end, or depth fractions
            in (0, 1]: (0.75, 0.75) is block ``round(0.75 * depth) - 1`` of
            each. Blocks of a ``HiViT`` are those of its main stage, those of
            SimMIM's and SparK's students their stages. Defaults to ().
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
            student, as in the paper. With SimMIM and SparK this or 0.
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
        input_size (int, optional): An option of mmpretrain's ``SparK``, for
            its backbones only, as the following. Defaults to None: 224.
        downsample_raito (int, optional): Pixels of a region that is hidden
            or visible as a whole. Defaults to None: 32.
        mask_ratio (float, optional): Defaults to None: 0.6.
        enc_dec_norm_cfg (dict, optional): Defaults to None: as in ``SparK``.
        enc_dec_norm_dim (int, optional): Defaults to None: the width of the
            last stage.
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
                 input_size: Optional[int] = None,
                 downsample_raito: Optional[int] = None,
                 mask_ratio: Optional[float] = None,
                 enc_dec_norm_cfg: Optional[dict] = None,
                 enc_dec_norm_dim: Optional[int] = None,
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
        stock = stock_student(
            backbone,
            neck,
            head,
            input_size=input_size,
            downsample_raito=downsample_raito,
            mask_ratio=mask_ratio,
            enc_dec_norm_cfg=enc_dec_norm_cfg,
            enc_dec_norm_dim=enc_dec_norm_dim)
        super().__init__(
            backbone=stock.backbone if stock else backbone,
            neck=stock.neck if stock else neck,
            head=stock.head if stock else head,
            data_preprocessor=with_any_channels(data_preprocessor),
            init_cfg=init_cfg)
        use_plain_numbers(self)  # or torch.compile would stop at NumPy's
        check_preprocessor(self.data_preprocessor, self.backbone)
        self.stock = stock  # of SimMIM or SparK; None: of MAE
        if stock is None:
            check_backbone(self.backbone, (*MASKED_STUDENTS, *STOCK_BACKBONES))
            check_sizes(self.backbone, self.neck, self.head)
            check_mask_ratio(self.backbone, bool(options))
            check_predict_ratio(self.neck, self.backbone)
            student = Student.of_vit(self.backbone, self.data_preprocessor,
                                     self.neck)
        else:
            stock.register_in(self)
            student = stock.describe(self.data_preprocessor)
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
            data_samples (list[DataSample]): Those of SimMIM have a ``mask``.
                Not used by others: no labels are needed.

        Returns:
            dict[str, torch.Tensor]: ``loss_recon`` and of each aligned pair
            ``loss_align_s{student block}_t{teacher block}``; with several
            teachers ``loss_align_{name}_s..._t...``.
        """
        # Each of the student's features is (B, P + K, C_student), or with
        # SimMIM and SparK a whole map.
        (losses, ids_restore, num_visible), student_features = (
            self.distillations.record(self.student_step, inputs, data_samples))
        losses.update(
            self.distillations.losses(inputs, student_features, ids_restore,
                                      num_visible))
        return losses

    def student_step(
        self, inputs: torch.Tensor, data_samples: List[DataSample]
    ) -> Tuple[Dict[str, torch.Tensor], torch.Tensor, int]:
        """What the student does without a teacher.

        Args:
            inputs (torch.Tensor): Normalised images, (B, 3, H, W).
            data_samples (list[DataSample]): See :meth:`loss`.

        Returns:
            tuple: Of :meth:`reconstruction_loss`, MAE's permutation (B, L),
            and K; with SimMIM and SparK those of regions.
        """
        if self.stock is not None:
            return self.stock.loss(inputs, data_samples)
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
        return outputs_of_whole_images(self.backbone, inputs)
