from .convert_mae import convert_mae_file
from .export import Exported, export_checkpoint
from .names import (backbone_from_timm, backbone_state_dict,
                    backbone_to_mmseg, backbone_to_timm, mae_to_mmpretrain)
from .tensor_file import TensorFile, read_tensor_file, write_tensor_file

__all__ = [
    'Exported', 'TensorFile', 'backbone_from_timm', 'backbone_state_dict',
    'backbone_to_mmseg', 'backbone_to_timm', 'convert_mae_file',
    'export_checkpoint', 'mae_to_mmpretrain', 'read_tensor_file',
    'write_tensor_file'
]
