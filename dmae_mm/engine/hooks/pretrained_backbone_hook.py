import torch
import torch.nn as nn
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import BaseLoop
from mmpretrain.models import VisionTransformer
from mmpretrain.registry import HOOKS

from dmae_mm.host import unwrapped_model
from dmae_mm.options import reject_unknown_options
from dmae_mm.weights.names import under_prefix
from dmae_mm.weights.origin import origin_of
from dmae_mm.weights.pretrained_option import (PretrainedOption,
                                               misunderstood,
                                               pretrained_options,
                                               read_for_host)


@HOOKS.register_module()
@reject_unknown_options
class PretrainedBackboneHook(Hook):
    """Refuses to train from a checkpoint that is not the backbone's.

    MMEngine loads ``init_cfg=dict(type='Pretrained', ...)`` non-strictly:
    what is missing or has another shape stays as it was drawn, with a line in
    the log. Before that, this hook reads the file itself, without executing
    pickles, and asks for every weight of the backbone but what no
    pre-training has, such as the norm behind average pooling.

    Nor does MMEngine see what has the right shape and another meaning, such
    as positions of 4 x 4 patches for a backbone of 2 x 8: these are refused
    here, also of what ``load_from`` or a resume loads.

    In configs of mmdet and mmseg it is ``mmpretrain.PretrainedBackboneHook``.
    There ``tools/check_transfer.py`` also shows what has been loaded.
    """

    def before_run(self, runner) -> None:
        """Check the file, if the model is going to be trained from it.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it leaves a weight of the backbone unset, or has
                another number of blocks, or would be loaded in part.
        """
        if not isinstance(runner._train_loop, BaseLoop):
            return  # a trained model is tested, with a checkpoint of its own
        model = unwrapped_model(runner)
        for option in pretrained_options(model):
            # Who names a file's weights itself (MaskedTimmViT), takes all.
            if not hasattr(model.backbone, 'weights_of'):
                _check(model.backbone, option)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Check what means something else, before it is in the model.

        Raises:
            ValueError: If it would be misunderstood.
        """
        backbone = getattr(unwrapped_model(runner), 'backbone', None)
        if backbone is None:
            return
        tensors = {
            name.removeprefix('module.'): tensor
            for name, tensor in checkpoint.get('state_dict',
                                               checkpoint).items()
            if isinstance(tensor, torch.Tensor)
        }
        problem = misunderstood(
            backbone, under_prefix(tensors, 'backbone.'),
            origin_of(checkpoint.get('meta') or {}, tensors), 'CHECKPOINT')
        if problem:
            name = runner._load_from or 'the checkpoint'
            raise ValueError(f'{name} is not a checkpoint of this '
                             f'{type(backbone).__name__}. {problem}')


def _check(backbone: nn.Module, option: PretrainedOption) -> None:
    checkpoint = option.checkpoint
    if '://' in checkpoint and not checkpoint.startswith('http'):
        print_log(
            f'{option.name}={checkpoint!r} is not checked: it is no path or '
            'http(s) URL.',
            logger='current')
        return
    try:
        file = read_for_host(checkpoint)
    except (OSError, ValueError) as error:
        raise type(error)(f'{option.name}: {error}') from None
    misfit = option.misfit(backbone, file)
    if misfit:
        raise ValueError(f'{option.name}: {file.source} is not a checkpoint '
                         f'of this {type(backbone).__name__}. {misfit}')
    if option.in_list and isinstance(backbone, VisionTransformer):
        raise ValueError(
            f'model.backbone.init_cfg={backbone.init_cfg!r}: from a list, '
            "mmpretrain's VisionTransformer loads all but its position "
            "embedding, which it then draws anew. Give dict(type='Pretrained'"
            ', ...) alone, without list.')
