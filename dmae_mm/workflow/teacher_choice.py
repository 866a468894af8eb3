"""What a plan needs to know of teachers, from their sections of a config."""
import itertools
import re
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence

import torch

from dmae_mm.models.mmpretrain_vits import img_size, patch_size
from dmae_mm.models.teachers.teacher_section import (TeacherSection,
                                                     teacher_name)
from dmae_mm.models.timm_vits import create_model, read_description

from .network_look import build_without_data, parameters_of

# Parts of names by which people call models; the first that is found.
_FAMILIES = ('dinov3', 'dinov2', 'dino', 'siglip', 'clip', 'mae', 'eva02',
             'eva', 'beit', 'ibot', 'moco', 'radio', 'sam', 'deit3', 'deit',
             'augreg')


@dataclass(frozen=True)
class TeacherChoice:
    """A teacher.

    Attributes:
        name (str): By which it was given.
        short_name (str): Of letters, digits and '_', for several teachers.
        section (dict): Of a config.
        note (str): What was assumed; '' for nothing.
        parameters (int): How many it has, also behind its last aligned block.
        size (int, optional): Height and width of the images that it is made
            for. None if they are not square.
        patch (int, optional): Side of its patches in pixels. None likewise.
    """
    name: str
    short_name: str
    section: Dict[str, Any]
    note: str
    parameters: int
    size: Optional[int]
    patch: Optional[int]

    def size_beside(self, size: int) -> Optional[int]:
        """Height and width of images like the student's, in whole patches.

        A teacher of larger images would only see them enlarged, at a higher
        cost.

        Args:
            size (int): Height and width of the student's images.

        Returns:
            int | None: None where it sees those that it is made for.
        """
        if (self.section['type'] != 'TimmTeacher' or None in (
                self.size, self.patch) or self.size <= size):
            return None
        return max(1, round(size / self.patch)) * self.patch

    def for_maps(self, size: int) -> Dict[str, Any]:
        """Its section for a student without patches.

        Args:
            size (int): Height and width of the student's images.
        """
        side = self.size_beside(size)
        return self.section if side is None else dict(
            self.section, img_size=side)


def choose_teachers(names: Sequence[str]) -> List[TeacherChoice]:
    """Find out what teachers are, without building them with data.

    Args:
        names (Sequence[str]): As :class:`TeacherSection` takes them.

    Returns:
        list[TeacherChoice]: One for each, with names of their own.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If there is no teacher, one is named twice, or there is no
            such model.
    """
    if isinstance(names, str):
        names = [names]
    if not names:
        raise ValueError('No teacher is given: --teacher NAME[=FILE], a '
                         'folder of Hugging Face, or CONFIG=FILE.')
    twice = [name for name in names if list(names).count(name) > 1]
    if twice:
        raise ValueError(f'The teacher {twice[0]!r} is given twice.')
    chosen: List[TeacherChoice] = []
    for name in names:
        taken = [other.short_name for other in chosen]
        chosen.append(_choose(name, taken))
    return chosen


def _choose(name: str, taken: Sequence[str]) -> TeacherChoice:
    found = TeacherSection.of(name)
    section = found.section
    said = f'{section.get("model_name", "")}_{teacher_name(name)}'.lower()
    words = re.split(r'[^a-z0-9]+|_', said)
    short = next((family for family in _FAMILIES if family in words),
                 teacher_name(name))
    numbered = (f'{short}_{number}' for number in itertools.count(2))
    unique = short if short not in taken else next(
        name for name in numbered if name not in taken)
    network = _network(section, name)
    try:
        side, size = patch_size(network), img_size(network)
    except AttributeError:  # no plain ViT; the model will say so
        side, size = (0, 1), (0, 1)
    return TeacherChoice(
        name=name,
        short_name=unique,
        section=section,
        note=found.note,
        parameters=parameters_of(network),
        size=size[0] if size[0] == size[1] else None,
        patch=side[0] if side[0] == side[1] else None)


def _network(section: Dict[str, Any], name: str) -> torch.nn.Module:
    if section['type'] != 'TimmTeacher':
        backbone = section.get('backbone') or section['model']['backbone']
        return build_without_data(backbone, f'the teacher {name!r}')
    found = section if section.get('model_name') else read_description(
        section.get('checkpoint'),
        None not in (section.get('mean'), section.get('std')))
    kwargs = dict(found.get('model_kwargs') or {},
                  **section.get('model_kwargs') or {})
    with torch.device('meta'), torch.random.fork_rng(devices=[]):
        network = create_model(found['model_name'], kwargs)
    network.reset_classifier(0)
    network.img_size = network.patch_embed.img_size
    return network
