from .export import FORMATS, Exported, export_checkpoint
from .student_file import StudentFile, export_student

__all__ = [
    'FORMATS', 'Exported', 'StudentFile', 'export_checkpoint',
    'export_student'
]
