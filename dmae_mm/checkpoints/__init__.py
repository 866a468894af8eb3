from .key_mapping import backbone_state_dict, mae_to_mmpretrain
from .mae_converter import convert_mae_file
from .tensor_file import TensorFile, read_tensor_file
from .write import write_tensor_file

__all__ = [
    'TensorFile', 'backbone_state_dict', 'convert_mae_file',
    'mae_to_mmpretrain', 'read_tensor_file', 'write_tensor_file'
]
