"""Models of Hugging Face transformers: a folder, or a file of it."""
import os.path as osp
from dataclasses import replace
from typing import Any, Dict, List, Optional, Sequence, Tuple

from dmae_mm.messages import first_few

from ..model_folder import description
from ..origin import Origin
from ..tensor_file import TensorFile, Tensors
from .format import Format
from .hugging_face_config import (Architecture, architecture,
                                  article_and_name, normalisation)
from .hugging_face_names import find_encoder, text_model, to_timm

CONFIG = 'config.json'
# Either has what an image processor does; the newer inside of a processor.
_PREPROCESSORS = ('preprocessor_config.json', 'processor_config.json')


def recognise(file: TensorFile) -> Optional[Format]:
    """The format of a file of transformers; None if it is of none.

    What neither names nor shapes show (heads, activation, what the norms add
    to the variance) is taken from the ``config.json`` in the same folder,
    and the normalisation from its ``preprocessor_config.json``. Without
    them the caller's own description counts.

    Raises:
        ValueError: If it is of a model that cannot be converted, or
            ``config.json`` contradicts the tensors.
    """
    prefix, family = find_encoder(file.tensors)
    is_folder = file.source == file.folder
    if not family and not is_folder:
        words = text_model(file.tensors)
        if words:
            raise ValueError(f'it is a Hugging Face {words}, which sees no '
                             'images')
        return None
    built = described(file.folder)
    if not family and built is None:
        return None
    if not family:
        raise ValueError(
            f'{_path(file.folder, CONFIG)} says that it is '
            f'{article_and_name(built.family)}, but the weights have other '
            f'names: {first_few(list(file.tensors), 3)}')
    if built is not None:
        if _of_one_layout(built.family, family):
            family = built.family
        else:
            raise ValueError(
                f'{_path(file.folder, CONFIG)} says that it is '
                f'{article_and_name(built.family)}, but the names of its '
                f'tensors are those of {article_and_name(family)}. Put the '
                'config.json that belongs to it into its folder')
    tensors, left = to_timm(file.tensors, prefix, family)
    origin = Origin()
    if built is not None:
        _check_shapes(tensors, built, _path(file.folder, CONFIG))
        origin = built.origin
    mean, std, said_by = images_of(file.folder)
    if mean is not None:
        if built is not None:
            said_by = (f'the metadata in {file.folder} ({CONFIG}, '
                       f'{osp.basename(said_by)})')
        origin = replace(origin, mean=mean, std=std, said_by=said_by)
    ignored = _grouped(left)
    name = article_and_name(family)
    if any(part.startswith('text_model.') for part in ignored):
        name = f'the vision tower of {name}'
    return Format(
        name,
        tensors,
        model_name=built and built.model_name,
        model_kwargs=built.model_kwargs if built else {},
        norm_eps=built and built.norm_eps,
        act_layer=built and built.act_layer,
        origin=origin,
        ignored=ignored)


def described(folder: Optional[str]) -> Optional[Architecture]:
    """What the ``config.json`` in a folder describes.

    Returns:
        Architecture | None: None if there is none, or it is not of
        transformers.

    Raises:
        ValueError: If it cannot be read, or is of a model that cannot be
            converted.
    """
    config = description(folder, CONFIG)
    if config is None or not {'model_type', 'architectures'} & config.keys():
        return None
    return architecture(config, _path(folder, CONFIG))


def images_of(
    folder: Optional[str]
) -> Tuple[Optional[Tuple[float, ...]], Optional[Tuple[float, ...]], str]:
    """Mean, std for pixel values from 0 to 255, and which file says them;
    None for each if none does."""
    for name in _PREPROCESSORS:
        said: Optional[Dict[str, Any]] = description(folder, name)
        if said is not None and isinstance(said.get('image_processor'), dict):
            said = said['image_processor']
        path = _path(folder, name)
        mean, std = normalisation(said, path)
        if mean is not None:
            return mean, std, path
    return None, None, ''


def _of_one_layout(one: str, other: str) -> bool:
    """Whether names of the second may be of a model of the first: without
    its decoder, a ViT-MAE has those of a ViT."""
    return one == other or {one, other} <= {'vit', 'vit_mae'}


def _check_shapes(tensors: Tensors, built: Architecture, path: str) -> None:
    """Refuse a config that is of another model of the family."""
    kwargs = built.model_kwargs
    blocks = {name.split('.')[1] for name in tensors
              if name.startswith('blocks.')}
    patches = tensors.get('patch_embed.proj.weight')
    fc2 = next((tensor for name, tensor in tensors.items()
                if name.endswith('.mlp.fc2.weight')), None)
    if patches is None or patches.dim() != 4 or fc2 is None:
        return  # which loading refuses
    swiglu = 'giant' in built.model_name
    wanted = int(kwargs['embed_dim'] * kwargs['mlp_ratio']) // (1 + swiglu)
    registers = tensors.get('reg_token')
    for option, said, found in (
        ('hidden_size', kwargs['embed_dim'], len(patches)),
        ('num_hidden_layers', kwargs['depth'], len(blocks)),
        ('patch_size', built.origin.patch_size, tuple(patches.shape[2:])),
        ('num_channels', kwargs.get('in_chans', 3), patches.shape[1]),
        ('intermediate_size (or mlp_ratio)', wanted, fc2.shape[-1]),
        ('num_register_tokens',
         kwargs.get('num_reg_tokens', kwargs.get('reg_tokens', 0)),
         0 if registers is None else registers.shape[1]),
    ):
        if said != found:
            raise ValueError(
                f'{path} contradicts the weights: it says {option}={said}, '
                f'they have {found}. Put the config.json that belongs to them '
                'into their folder')


def _grouped(names: Sequence[str]) -> List[str]:
    """'text_model.* (12)' for the many names of a part."""
    groups: Dict[str, List[str]] = {}
    for name in names:
        groups.setdefault(name.split('.')[0], []).append(name)
    return [
        f'{part}.* ({len(group)})' if len(group) > 1 else group[0]
        for part, group in groups.items()
    ]


def _path(folder: Optional[str], name: str) -> str:
    return osp.join(folder or '', name)
