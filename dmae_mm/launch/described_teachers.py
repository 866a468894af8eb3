"""Teachers whose architecture a folder describes: written out in full."""
from typing import Any, List

from mmengine.config import Config

from dmae_mm.weights.formats import described_folder

from .sections import entries


def describe_teachers(cfg: Config) -> List[str]:
    """Write into a config what a :class:`TimmTeacher` without ``model_name``
    would read from its checkpoint's folder.

    The config in the work dir then builds the student where the folder is
    not.

    Args:
        cfg (Config): Is changed. Options that it gives are kept.

    Returns:
        list[str]: A sentence for each teacher that cannot be described.
    """
    problems = []
    for option, section in list(entries(dict(model=cfg.get('model')))):
        if not _is_undescribed(section):
            continue
        try:
            found = described_folder(
                section['checkpoint'],
                None not in (section.get('mean'), section.get('std')))
        except (OSError, ValueError) as error:
            problems.append(f'{option}: {error}')
            continue
        found['model_kwargs'].update(section.get('model_kwargs') or {})
        section.update(found)
    return problems


def _is_undescribed(section: Any) -> bool:
    return (isinstance(section, dict)
            and str(section.get('type')).endswith('TimmTeacher')
            and section.get('model_name') is None
            and isinstance(section.get('checkpoint'), str))
