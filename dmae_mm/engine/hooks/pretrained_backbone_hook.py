import torch
import torch.nn as nn
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import PretrainedInit
from mmengine.runner import BaseLoop
from mmpretrain.models import VisionTransformer
from mmpretrain.registry import HOOKS

from dmae_mm.checkpoints import read_tensor_file
from dmae_mm.checkpoints.fit import first_few, misfits
from dmae_mm.checkpoints.key_mapping import under_prefix
from dmae_mm.models.teachers.mmpretrain_backbones import COMPUTED
from dmae_mm.options import reject_unknown_options

from .unwrapped_model import unwrapped_model

# The norm behind average pooling, which pre-training does not have.
_NEW = 'ln2.'
# Of these, the host resamples all but the last dimension.
_RESAMPLED = ('pos_embed', 'relative_position_bias_table')


@HOOKS.register_module()
@reject_unknown_options
class PretrainedBackboneHook(Hook):
    """Refuses to train from a checkpoint that is not the backbone's.

    MMEngine loads ``backbone.init_cfg=dict(type='Pretrained', ...)``
    non-strictly: what is missing or has another shape stays as it was drawn,
    with a line in the log. Before that, this hook reads the file itself,
    without executing pickles, and asks for every weight of the backbone but
    the norm behind average pooling, which pre-training does not have.
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
        backbone = getattr(unwrapped_model(runner), 'backbone', None)
        cfgs = getattr(backbone, 'init_cfg', None) or []
        for cfg in [cfgs] if isinstance(cfgs, dict) else cfgs:
            if cfg['type'] in ('Pretrained', PretrainedInit):
                _check(backbone, cfg['checkpoint'], cfg.get('prefix'))
                if cfgs is not cfg and isinstance(backbone, VisionTransformer):
                    raise ValueError(
                        f'model.backbone.init_cfg={cfgs!r}: from a list, '
                        "mmpretrain's VisionTransformer loads all but its "
                        'position embedding, which it then draws anew. Give '
                        "dict(type='Pretrained', ...) alone, without list.")


def _check(backbone: nn.Module, checkpoint: str, prefix: str) -> None:
    if '://' in checkpoint and not checkpoint.startswith('http'):
        print_log(
            f'model.backbone.init_cfg.checkpoint={checkpoint!r} is not '
            'checked: it is no path or http(s) URL.',
            logger='current')
        return
    try:
        file = read_tensor_file(checkpoint)
    except (OSError, ValueError) as error:
        raise type(error)(
            f'model.backbone.init_cfg.checkpoint: {error}') from None
    if file.weights_key not in (None, 'state_dict'):
        raise ValueError(
            f'model.backbone.init_cfg.checkpoint: {file.source} keeps its '
            f'weights under {file.weights_key!r}, where MMEngine does not '
            "look. Save them under 'state_dict'.")
    prefix = f'{prefix.rstrip(".")}.' if prefix else ''
    weights = under_prefix(file.tensors, prefix)
    own = backbone.state_dict()
    needed = {}
    for name, tensor in own.items():
        shape = tuple(tensor.shape)
        given = weights.get(name)
        if (name.endswith(_RESAMPLED) and given is not None
                and given.shape[-1:] == shape[-1:]):
            shape = tuple(given.shape)
        if (tensor.is_floating_point() and not name.startswith(_NEW)
                and not COMPUTED.fullmatch(name)):
            needed[name] = shape
    problems = misfits(weights, needed, own.keys(), torch.float32)
    if problems:
        found = ', '.join(list(file.tensors)[:3])
        raise ValueError(
            f'model.backbone.init_cfg.checkpoint: {file.source} is not a '
            f'checkpoint of this {type(backbone).__name__}: under the prefix '
            f'{prefix!r}, {first_few(problems)}. It begins with {found}. '
            'Give a checkpoint of this architecture, or the architecture of '
            'this checkpoint in model.backbone; a file of FAIR\'s MAE is '
            'converted by tools/model_converters/mae_to_mmpretrain.py.')
