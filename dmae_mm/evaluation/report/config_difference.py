"""What differs between configs."""
from typing import Dict, List, Optional

# A value that a config does not have.
ABSENT = '(none)'


def differences(
        configs: List[Optional[Dict[str, str]]]) -> Dict[str, List[str]]:
    """What differs between configs.

    Args:
        configs (list[dict | None]): What ``flat_config`` returned; None
            for a run whose config cannot be read, which is not compared.

    Returns:
        dict[str, list[str]]: For each path that has not the same value in
        all configs, the values in the order of ``configs``; :data:`ABSENT`
        where there is none. Where the run is written, ``work_dir``, differs
        always and is left out.
    """
    known = [config for config in configs if config is not None]
    paths = sorted({path for config in known for path in config})
    return {
        path: ['?' if config is None else config.get(path, ABSENT)
               for config in configs]
        for path in paths if path != 'work_dir'
        and len({config.get(path, ABSENT) for config in known}) > 1
    }
