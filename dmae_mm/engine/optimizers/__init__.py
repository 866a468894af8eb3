from .backbone_layer_decay_constructor import BackboneLayerDecayConstructor
from .merged_groups_constructor import MergedGroupsConstructor

__all__ = ['BackboneLayerDecayConstructor', 'MergedGroupsConstructor']
