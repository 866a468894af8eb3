"""Models of timm: which run on visible patches alone, and where their weights
come from."""
import difflib
import re
from typing import Any, Dict, Optional, Tuple

import timm
import torch
import torch.nn as nn
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.utils import get_session
from timm.layers import PatchEmbed
from timm.models import deit, eva, vision_transformer

from dmae_mm.models.tokens import VisiblePatches
from dmae_mm.weights import TensorFile, backbone_state_dict
from dmae_mm.weights.formats import TranslatedFile, described_folder
from dmae_mm.weights.names import (backbone_to_timm, layout_of,
                                   timm_model_state_dict)

# Exactly these: a subclass with a forward of its own would run, but not as
# TimmTeacher and MaskedTimmViT assume.
SUPPORTED = (vision_transformer.VisionTransformer,
             deit.VisionTransformerDistilled, eva.Eva)

# What only pre-training has, and what follows the last block.
_PRETRAINING = ('decoder_', 'mask_token')
_BEHIND_THE_BLOCKS = ('norm.', 'fc_norm.', 'head.', 'head_dist.', 'attn_pool.')

# What positions are called in the files that timm converts.
_POSITIONS = ('pos_embed', 'positional_embedding', 'position_embedding.weight',
              'position_embeddings')

_HUB_FILES = ('model.safetensors', 'open_clip_model.safetensors',
              'pytorch_model.bin', 'open_clip_pytorch_model.bin')


def create_model(model_name: str,
                 model_kwargs: dict,
                 owner: str = 'teacher') -> nn.Module:
    """``timm.create_model`` without weights, for what sees visible patches.

    Args:
        model_name (str): Name of a model of timm.
        model_kwargs (dict): Further arguments of ``timm.create_model``.
        owner (str): The section of the config, for errors. Defaults to
            'teacher'.

    Returns:
        nn.Module: The model.

    Raises:
        ValueError: If there is no such model, it does not take these
            arguments, or visible patches cannot be separated from hidden
            ones in it.
    """
    illegal = {'pretrained', 'checkpoint_path', 'features_only'}
    illegal &= model_kwargs.keys()
    if illegal:
        own = 'init_cfg' if owner == 'backbone' else 'checkpoint or pretrained'
        raise ValueError(f'{owner}.model_kwargs: {sorted(illegal)} must not '
                         f"be given. Weights are named by the {owner}'s own "
                         f'options, {own}.')
    if ':' not in model_name and not timm.is_model(model_name):
        close = difflib.get_close_matches(model_name, timm.list_models(), 5)
        raise ValueError(
            f'{owner}: model_name={model_name!r} is no model of timm '
            f'{timm.__version__}. Close to it are: '
            f'{", ".join(close) or "none"}. timm.list_models("*vit*") lists '
            'all.')
    try:
        model = timm.create_model(model_name, **model_kwargs)
    except (TypeError, RuntimeError, AssertionError) as error:
        raise ValueError(
            f'{owner}: timm cannot create model_name={model_name!r} with '
            f'model_kwargs={model_kwargs!r}: {error}') from error
    if type(model) not in SUPPORTED:
        raise ValueError(
            f'{owner}: model_name={model_name!r} is a '
            f'{type(model).__name__}, which cannot run on visible patches '
            'alone. Choose a model of timm that is one of '
            f'{[cls.__name__ for cls in SUPPORTED]}.')
    if type(model.patch_embed) is not PatchEmbed:
        raise ValueError(
            f'{owner}: model_name={model_name!r} embeds patches with a '
            f'{type(model.patch_embed).__name__}, which mixes hidden patches '
            'into visible ones. Choose a model with a plain PatchEmbed.')
    return model


def default_img_size(model_name: str) -> Optional[Tuple[int, int]]:
    """Height and width of the images of a model, without building it.

    Args:
        model_name (str): Its name; any value.

    Returns:
        tuple[int, int] | None: None where timm's description does not say.
    """
    if not isinstance(model_name, str) or not timm.is_model(model_name):
        return None
    cfg = timm.get_pretrained_cfg(model_name)
    known = cfg is not None and cfg.fixed_input_size
    return tuple(cfg.input_size[-2:]) if known else None


def read_description(checkpoint: Optional[str],
                     knows_images: bool) -> Dict[str, Any]:
    """Options that a TimmTeacher without ``model_name`` takes from a folder.

    Args:
        checkpoint (str, optional): As the config gives it.
        knows_images (bool): Whether the config gives mean and std.

    Returns:
        dict[str, Any]: As of :func:`described_folder`.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it does not say enough.
    """
    if checkpoint is None:
        raise ValueError(
            'teacher: neither model_name nor checkpoint is given. Give '
            'model_name, as in timm.create_model, or the folder of a model '
            'of Hugging Face transformers as checkpoint.')
    try:
        return described_folder(checkpoint, knows_images)
    except (OSError, ValueError) as error:
        raise type(error)(f'teacher: {error}.') from None


def pretrained_source(model_name: str, pretrained_cfg: dict) -> str:
    """Where timm has the weights of a model.

    Args:
        model_name (str): Name of the model, for the error.
        pretrained_cfg (dict): timm's own description of its weights.

    Returns:
        str: A path, a URL, or 'hf-hub:' and a name on the Hugging Face hub.

    Raises:
        ValueError: If there are none that can be read here.
    """
    if pretrained_cfg.get('file'):
        return pretrained_cfg['file']
    if pretrained_cfg.get('hf_hub_id'):
        return f'hf-hub:{pretrained_cfg["hf_hub_id"]}'
    url = pretrained_cfg.get('url')
    if url and not url.endswith('.npz'):
        return url
    raise ValueError(
        f'teacher: pretrained=True, but timm names no weights for '
        f'model_name={model_name!r} that can be read. Give checkpoint=..., or '
        'a name with a tag, such as vit_large_patch16_224.mae.')


def check_reachable(model_name: str) -> None:
    """Tell within seconds if timm's weights of a model cannot be fetched.

    Nothing is downloaded.

    Args:
        model_name (str): With its tag.

    Raises:
        OSError: If they lie on the Hugging Face hub, which does not answer,
            and not in its cache.
        ValueError: If there are none that can be read here.
    """
    pretrained_cfg = timm.get_pretrained_cfg(model_name).to_dict()
    source = pretrained_source(model_name, pretrained_cfg)
    if source.startswith('hf-hub:') and not _hub_answers():
        fetch_from_hub(source, pretrained_cfg)


def _hub_answers() -> bool:
    """Without the half minute in which a download tries again."""
    try:
        get_session().head(constants.ENDPOINT, timeout=10)
    except Exception:  # of the hub's many kinds; also where it is turned off
        return False
    return True


def fetch_from_hub(source: str, pretrained_cfg: dict) -> str:
    """Path of a model's weights in the cache of the Hugging Face hub.

    Args:
        source (str): As :func:`pretrained_source` returns it.
        pretrained_cfg (dict): timm's own description of the weights.

    Returns:
        str: The path; the file is downloaded first where it is not there.

    Raises:
        OSError: If there is no such file, or the hub cannot be reached.
    """
    repository, _, revision = source[len('hf-hub:'):].partition('@')
    own = pretrained_cfg.get('hf_hub_filename')
    reason, cached = None, not _hub_answers()
    for name in dict.fromkeys([*_HUB_FILES[:2], own, *_HUB_FILES[2:]]):
        if name is None:
            continue
        try:
            return hf_hub_download(
                repository,
                name,
                revision=revision or None,
                local_files_only=cached)
        except EntryNotFoundError as error:
            reason = error  # perhaps the next
        except Exception as error:  # of the hub's many kinds
            reason = error
            break
    said = ('it does not answer, and its cache does not hold them.' if cached
            else str(reason).strip().splitlines()[0])
    raise OSError(
        f'The weights {source} cannot be fetched from the Hugging Face hub: '
        f'{said} Check the connection (or '
        'HF_HUB_OFFLINE and HF_HOME, where the cache lies), or download the '
        'file elsewhere and give its path: in a config as checkpoint, with '
        'pretrained=False; on a command line as NAME=FILE.') from reason


def convert_weights(
        file: TensorFile,
        model: nn.Module,
        owner: str = 'teacher') -> Tuple[Dict[str, torch.Tensor], str]:
    """Weights of a file under the names of a model of timm.

    Args:
        file (TensorFile): A file with the names of timm, of what timm's
            filters convert, of MAE, of mmpretrain's plain ViT, or of a model
            of timm in mmpretrain (``TIMMBackbone``, :class:`MaskedTimmViT`).
        model (nn.Module): The whole model with its own grid of patches.
        owner (str): Whose checkpoint it is, for errors: 'teacher' (the
            default) or 'student'.

    Returns:
        tuple[dict, str]: The weights, without those that only pre-training
        has or that the model lacks behind its blocks, and whose names the
        file has.

    Raises:
        ValueError: If the names are none of these, or are those of a model
            with another number of registers.
    """
    _check_registers(file, model, owner)
    layout = layout_of(file.tensors)
    in_mmpretrain = timm_model_state_dict(file.tensors)
    known = model.state_dict().keys()
    embedding = file.tensors.get('patch_embed.proj.weight')
    are_its_own = embedding is not None and embedding.dim() == 4 and all(
        name in known or name.startswith(_BEHIND_THE_BLOCKS)
        for name in file.tensors)
    of_mmpretrain = not in_mmpretrain and layout in ('mmpretrain',
                                                     'mmpretrain backbone')
    if of_mmpretrain and model.no_embed_class and model.cls_token is not None:
        raise ValueError(
            f'The {owner} checkpoint {file.source} cannot be used: it has '
            "mmpretrain's names, and of its models only DeiT3 has a CLS token "
            'without position, as this model of timm. But it computes '
            'something else from the same weights (it applies ln1 where '
            'DeiT III applies ln2).' +
            ' Use an MMPretrainTeacher.' * (owner == 'teacher'))
    try:
        if of_mmpretrain:
            backbone, _ = backbone_state_dict(file.tensors)
            weights = backbone_to_timm(backbone)
        elif in_mmpretrain:
            weights = in_mmpretrain
        elif are_its_own:  # nothing is to be converted
            layout = 'timm'
            weights = dict(file.tensors)
        elif isinstance(model, eva.Eva):
            layout = 'timm'
            weights = eva.checkpoint_filter_fn(dict(file.tensors), model)
        else:
            layout = 'timm'
            weights = vision_transformer.checkpoint_filter_fn(
                dict(file.tensors), model, adapt_layer_scale=True)
        if isinstance(file, TranslatedFile):
            layout = file.format.name
            weights = _without_zero_biases(weights, model)
    except Exception as error:  # a filter meets tensors of any shape
        raise ValueError(
            f'The {owner} checkpoint {file.source} cannot be used: its names '
            f'cannot be converted to those of timm ({error}).') from error
    weights = {
        name: tensor
        for name, tensor in weights.items()
        if not name.startswith(_PRETRAINING) and (
            name in known or not name.startswith(_BEHIND_THE_BLOCKS))
    }
    resample = isinstance(file, TranslatedFile) and file.format.resample
    if resample and 'pos_embed' in known:
        weights['pos_embed'] = resample(
            file.tensors['pos_embed'], model.patch_embed.grid_size,
            model.pretrained_cfg.get('architecture', ''))
        return weights, layout
    # A filter resamples these to the model's sizes, whatever the file has.
    # Files with timm's own names keep their sizes: a teacher fits the images
    # to them, and a student knows more of the grid of its positions.
    if weights.keys() <= file.tensors.keys():
        for name in ('pos_embed', 'patch_embed.proj.weight'):
            given = file.tensors.get(name)
            if name in weights and given.dim() == weights[name].dim():
                weights[name] = given
    return weights, layout


def _without_zero_biases(weights: Dict[str, torch.Tensor],
                         model: nn.Module) -> Dict[str, torch.Tensor]:
    """Without biases that the model lacks and that are all zero: of DINOv3,
    timm has models without the biases that its larger ones do not use."""
    known = model.state_dict().keys()
    return {
        name: tensor
        for name, tensor in weights.items()
        if name in known or not name.endswith('bias') or tensor.any()
    }


def _check_registers(file: TensorFile, model: nn.Module, owner: str) -> None:
    """Refuse registers under the name of a model without, and the reverse,
    with the name of the right one."""
    given = next((tensor.shape[1] for name, tensor in file.tensors.items()
                  if name.endswith(('reg_token', 'register_tokens'))
                  and tensor.dim() == 3), 0)
    own = model.state_dict().get('reg_token')
    own = 0 if own is None else own.shape[1]
    if given == own:
        return
    name = model.pretrained_cfg.get('architecture', '')
    tag = model.pretrained_cfg.get('tag', '')
    name = re.sub(r'_reg\d+', '', name)
    if given:
        name = re.sub(r'(_patch\d+)', rf'\1_reg{given}', name)
    known = timm.list_models(f'{name}*', pretrained=True)
    exact = [f'{name}.{tag}'] if f'{name}.{tag}' in known else known[:5]
    if not exact:
        exact = [name] if timm.is_model(name) else []
    hint = (f'Give model_name={exact[0]!r}'
            + f' (or {", ".join(map(repr, exact[1:]))})' * (len(exact) > 1)
            if exact else 'timm has no model of this name with so many: give '
            f'model_kwargs=dict(reg_tokens={given})')
    raise ValueError(
        f'The {owner} checkpoint {file.source} has {given or "no"} register '
        f'tokens, the model has {own or "none"}. {hint}.')


def num_positions(file: TensorFile, num_prefix: int) -> int:
    """For how many patches a file of any origin has positions; 0 if for
    none.

    Args:
        file (TensorFile): The file.
        num_prefix (int): Positions in front of those of the patches.
    """
    return next((tensor.shape[-2] - num_prefix
                 for name, tensor in file.tensors.items()
                 if name.endswith(_POSITIONS) and tensor.dim() >= 2
                 and 'decoder' not in name), 0)


def show_only_visible(network: nn.Module) -> VisiblePatches:
    """Put a :class:`VisiblePatches` in the place of ``patch_drop``.

    Args:
        network (nn.Module): One of :data:`SUPPORTED`, changed in place.

    Returns:
        VisiblePatches: What was put there.
    """
    visible_cls = (
        VisiblePatchesWithIndices
        if isinstance(network, eva.Eva) else VisiblePatches)
    network.patch_drop = visible_cls(network.num_prefix_tokens)
    return network.patch_drop


class VisiblePatchesWithIndices(VisiblePatches):
    """For timm's ``Eva``, which then picks the rotary embeddings to match."""

    def forward(
            self, tokens: torch.Tensor
    ) -> Tuple[torch.Tensor, Optional[torch.Tensor]]:
        return super().forward(tokens), self._ids_keep
