"""Makes this package's configs known by name to mmpretrain's model hub."""
from pathlib import Path

from mmpretrain.apis.model import ModelHub


def register_configs() -> None:
    """Let ``list_models`` and ``get_model`` of mmpretrain see the configs.

    They lie beside the package in a checkout and in ``_dmae_mm/.mim`` in an
    installed wheel. Where they are in neither place, there is nothing to
    register. A second call, which mmpretrain would refuse, changes nothing.
    """
    parent = Path(__file__).parents[1]
    for root in (parent / '_dmae_mm' / '.mim', parent):
        # Not any model-index.yml: that of another project may lie there.
        if (root / 'configs' / 'dmae' / 'metafile.yml').is_file():
            if not ModelHub.has('vit-s_dmae_in1k'):
                ModelHub.register_model_index(
                    root / 'model-index.yml', config_prefix=root)
            return
