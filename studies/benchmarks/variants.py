"""The ways of computing a training step that are compared.

"As the reference" is how the paper's public code computes: the teacher embeds
all patches and then drops the hidden ones; all its blocks, its final norm and
its decoder run, although only the features of the last aligned block are used.
The optimizer is AdamW as PyTorch computes it by default, one group with and
one without weight decay. "DMAE" is what a config of this project does. Behind
these come objectives of other papers, with that config's student and teacher.
"""
import argparse
import copy
import functools
import runpy
from dataclasses import dataclass, replace
from typing import Callable, Dict, Iterable, List, Sequence, Tuple

import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch.utils.flop_counter import FlopCounterMode

from dmae_mm.models import DMAE, MMPretrainTeacher
from dmae_mm.models.distillations import Distillations

from studies.recipes_page import PAGE, read_page

from .measuring import CONFIG, add_device, command_line, config_file


@dataclass(frozen=True)
class Variant:
    """One way of computing a step.

    Attributes:
        teacher (str): 'none', 'truncated' or 'whole'.
        fused (bool): AdamW in one pass over the memory.
        compile (bool): ``torch.compile``.
        teacher_dtype (str): Type of the teacher's weights and arithmetic.
        light_decoder (bool): CrossAttentionDecoder; a quarter of all patches
            is predicted.
        objective (str): Key of ``OBJECTIVES``, or '' for that of the config.
    """
    teacher: str = 'truncated'
    fused: bool = True
    compile: bool = False
    teacher_dtype: str = 'float32'
    light_decoder: bool = False
    objective: str = ''


# Recipes of docs/recipes.md that say what another paper's method changes.
OBJECTIVES: Dict[str, str] = {
    'TinyMIM': 'vit-b_dmae-qkv',
    'token relations': 'vit-s_dmae-tokens',
    'G2SD': 'vit-s_dmae-g2sd',
    'AMD': 'vit-s_dmae-amd',
}

VARIANTS: Dict[str, Variant] = {
    'plain MAE': Variant(teacher='none'),
    'as the reference': Variant(teacher='whole', fused=False),
    'DMAE': Variant(),
    'DMAE, stock AdamW': Variant(fused=False),
    'DMAE, bf16 teacher': Variant(teacher_dtype='bfloat16'),
    'DMAE, compiled': Variant(compile=True),
    'DMAE, light decoder': Variant(light_decoder=True),
    'DMAE, all options': Variant(
        compile=True, teacher_dtype='bfloat16', light_decoder=True),
    **{name: Variant(objective=name) for name in OBJECTIVES},
}  # yapf: disable


def options(doc: str, always: str, **numbers: int) -> argparse.ArgumentParser:
    """Options of a benchmark of variants.

    Args:
        doc (str): What it does.
        always (str): The variant that the others are compared with.
        numbers (int): Further options and their defaults.
    """
    parser = command_line(doc, batch_size=8, **numbers)
    parser.add_argument(
        'configs',
        nargs='*',
        type=config_file,
        default=[CONFIG, CONFIG.replace('vit-s', 'vit-b')],
        help='DMAE configs with a MAEViT as student and as teacher; by '
        'default S <- B and B <- L')
    add_device(parser)
    parser.add_argument('--amp', action='store_true', help='bfloat16 autocast')
    parser.add_argument(
        '--variants',
        nargs='+',
        choices=['all', *VARIANTS],
        help='by default those of DMAE, on a CPU without the compiled ones; '
        f'"{always}" is always among them')
    return parser


def chosen(args: argparse.Namespace, always: str) -> List[str]:
    """Names of the variants that the options ask for."""
    wanted = args.variants
    if wanted is None:  # compiling takes minutes on a CPU
        wanted = [
            name for name, variant in VARIANTS.items()
            if not variant.objective and (
                args.device.startswith('cuda') or not variant.compile)
        ]
    return [
        name for name in VARIANTS if 'all' in wanted or name in (always,
                                                                 *wanted)
    ]


class WholeTeacher(MMPretrainTeacher):
    """A teacher that computes what the public code computes."""

    def __init__(self, backbone: dict, aligned_blocks: list, **kwargs) -> None:
        super().__init__(backbone, [*aligned_blocks, -1], **kwargs)
        num_patches = self.patch_grid[0] * self.patch_grid[1]
        self.norm = nn.LayerNorm(self.embed_dims)
        self.decoder = MODELS.build(
            dict(
                type='MAEPretrainDecoder',
                num_patches=num_patches,
                patch_size=self.img_size[0] // self.patch_grid[0],
                embed_dim=self.embed_dims))
        self.requires_grad_(False)
        self.aligned_blocks = self.aligned_blocks[:-1]
        self.network.drop_after_pos.register_forward_hook(self._drop_hidden)

    def _drop_hidden(self, module: nn.Module, args: tuple,
                     tokens: torch.Tensor) -> torch.Tensor:
        index = self.ids_keep[..., None].expand(-1, -1, self.embed_dims)
        return torch.cat([tokens[:, :1], tokens[:, 1:].gather(1, index)], 1)

    def extract_features(self, images: torch.Tensor,
                         ids_keep: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        self.ids_keep = ids_keep
        *features, last = super().extract_features(images, None)
        num_patches = self.patch_grid[0] * self.patch_grid[1]
        ids_restore = torch.arange(num_patches, device=images.device)
        self.decoder(self.norm(last), ids_restore.expand(len(images), -1))
        return tuple(features)


def build(config: str, variant: Variant) -> DMAE:
    """A model with random weights, also in the teacher."""
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    if variant.teacher == 'none':
        cfg.model.update(teacher=None, aligned_layers=[])
    else:
        cfg.model.teacher.update(
            checkpoint='not read', dtype=variant.teacher_dtype)
        if variant.teacher == 'whole':
            cfg.model.teacher.type = WholeTeacher
    if variant.light_decoder:
        cfg.model.neck.update(type='CrossAttentionDecoder', predict_ratio=0.25)
    if variant.objective:
        row = read_page(PAGE.read_text())[OBJECTIVES[variant.objective]]
        # They change options of these, and a config may leave them out.
        for part, default in (('distill_neck', 'FeatureProjectionNeck'),
                              ('distill_loss', 'FeatureAlignmentLoss')):
            cfg.model.setdefault(part, dict(type=default))
        # Of a file, what it changes and not what it stands on.
        cfg.merge_from_dict(row.parsed_options() or dict(
            model=runpy.run_path(row.config)['model']))
    model = MODELS.build(cfg.model)
    if model.teacher is not None:
        model.teacher.is_loaded = True
    return model.train()


def count_flops(config: str, variant: Variant) -> Tuple[int, int]:
    """Multiply-adds x 2 for an image, only counted.

    Args:
        config (str): Path of the config.
        variant (Variant): How it computes.

    Returns:
        tuple[int]: Of the student, forward and backward, and of the teacher.
    """
    with torch.device('meta'):
        # Which has no autocast; the number does not depend on the type.
        model = build(config, replace(variant, teacher_dtype='float32'))
        images = torch.empty(1, 3, *model.backbone.img_size)
        with FlopCounterMode(display=False) as counter:
            losses = model.loss(images, None)
            # It has no backward pass and is counted under its class.
            teacher = sum(counter.get_flop_counts().get(
                type(model.teacher).__name__, {}).values())
            sum(losses.values()).backward()
    return counter.get_total_flops() - teacher, teacher


def build_all(config: str, names: Sequence[str],
              device: str) -> Dict[str, DMAE]:
    """Models that all train the same student, so that many fit into memory.

    Those of other objectives have students of their own, of which not all
    may learn.

    Args:
        config (str): Path of the config.
        names (Sequence[str]): Keys of ``VARIANTS``.
        device (str): Where they are.

    Returns:
        dict[str, DMAE]: A model for each name.
    """
    base = build(config, Variant()).to(device)
    models = {}
    for name in names:
        variant = VARIANTS[name]
        if variant.objective:
            models[name] = build(config, variant).to(device)
            models[name].teacher.to(device)
            continue
        model = copy.copy(base)
        model._modules = dict(base._modules)
        if variant.teacher == 'none':
            model.distillations = Distillations(None, {})
            del model._modules['distill_neck']
        elif variant.teacher == 'whole' or variant.teacher_dtype != 'float32':
            other = build(config, replace(variant, light_decoder=False))
            part = copy.copy(base.distillations.by_name[''])
            part.teacher = other.teacher.to(device)
            model.distillations = copy.copy(base.distillations)
            model.distillations.by_name = {'': part}
        if variant.light_decoder:
            model.neck = build(config, Variant(light_decoder=True)).neck.to(
                device)
        models[name] = model
    return models


def build_optimizer(model: DMAE, fused: bool) -> torch.optim.Optimizer:
    """AdamW with the two groups of the recipe, in the stock way or fused."""
    parameters = trained(model)
    return torch.optim.AdamW(
        [dict(params=[p for p in parameters if p.ndim > 1]),
         dict(params=[p for p in parameters if p.ndim == 1], weight_decay=0.)],
        lr=1e-4, weight_decay=0.05, fused=fused or None)  # yapf: disable


def random_images(model: DMAE, batch_size: int, device: str) -> torch.Tensor:
    """Normalised, (B, 3, H, W)."""
    return torch.randn(batch_size, 3, *model.backbone.img_size, device=device)


def make_steps(models: Dict[str, DMAE], images: torch.Tensor,
               amp: bool) -> Dict[str, Callable[[], None]]:
    """Closures that train a step each.

    Args:
        models (dict[str, DMAE]): From :func:`build_all`. Optimizers of one
            kind share their state.
        images (torch.Tensor): Normalised, (B, 3, H, W), on their device.
        amp (bool): Whether to compute in bfloat16 autocast.

    Returns:
        dict[str, callable]: By variant.
    """
    states: Dict[bool, dict] = {}
    steps = {}
    for name, model in models.items():
        variant = VARIANTS[name]
        optimizer = build_optimizer(model, variant.fused)
        optimizer.state = states.setdefault(variant.fused, optimizer.state)
        loss_of = torch.compile(model.loss) if variant.compile else model.loss
        steps[name] = functools.partial(train_step, loss_of, optimizer, images,
                                        amp)
    return steps


def train_step(loss_of: Callable, optimizer: torch.optim.Optimizer,
               images: torch.Tensor, amp: bool) -> None:
    """Train a step; ``loss_of(images, None)`` returns the losses."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=amp):
        loss = sum(loss_of(images, None).values())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def trained(model: DMAE) -> List[torch.Tensor]:
    """What the optimizer changes."""
    return [p for p in model.parameters() if p.requires_grad]


def num_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Memory of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def module_bytes(module: nn.Module) -> int:
    """Memory of parameters and buffers."""
    return num_bytes([*module.parameters(), *module.buffers()])


def standing_bytes(model: DMAE) -> Dict[str, int]:
    """Memory that a variant needs all the time.

    Args:
        model (DMAE): Of :func:`build_all`.

    Returns:
        dict[str, int]: Bytes of the student's 'weights', the 'teacher' and
        the two moments of the 'optimizer'.
    """
    return dict(
        weights=module_bytes(model),
        teacher=0 if model.teacher is None else module_bytes(model.teacher),
        optimizer=2 * num_bytes(trained(model)))
