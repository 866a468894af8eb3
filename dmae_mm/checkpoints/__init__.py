from .key_mapping import backbone_state_dict, mae_to_mmpretrain
from .tensor_file import TensorFile, read_tensor_file

__all__ = [
    'TensorFile', 'backbone_state_dict', 'mae_to_mmpretrain',
    'read_tensor_file'
]
