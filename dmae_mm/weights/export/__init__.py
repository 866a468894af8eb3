from .export import FORMATS, Exported, export_checkpoint

__all__ = ['FORMATS', 'Exported', 'export_checkpoint']
