from .backbone_layer_decay_constructor import BackboneLayerDecayConstructor

__all__ = ['BackboneLayerDecayConstructor']
