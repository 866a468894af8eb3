from typing import Optional

from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS

from dmae_mm.models.teachers import Teacher
from dmae_mm.options import reject_unknown_options
from .unwrapped_model import unwrapped_model


@HOOKS.register_module()
@reject_unknown_options
class TeacherHook(Hook):
    """Writes into each checkpoint who taught, and resumes only with them.

    A checkpoint holds no tensor of the teacher. What a run needs to go on as
    if it had never stopped is the same teacher; this hook stores its source
    and fingerprint under ``checkpoint['meta']['teacher']``, and refuses to
    resume with another one. Loading weights without resuming is not
    restricted.
    """

    def __init__(self) -> None:
        # Computed once: reading a large teacher's weights takes seconds.
        self._fingerprint: Optional[str] = None

    def _fingerprint_of(self, teacher: Teacher) -> str:
        if self._fingerprint is None:
            self._fingerprint = teacher.fingerprint()
        return self._fingerprint

    def _describe(self, teacher: Teacher) -> dict:
        return dict(
            type=type(teacher).__name__,
            checkpoint=teacher.checkpoint,
            aligned_blocks=list(teacher.aligned_blocks),
            dtype=str(teacher.dtype),
            img_size=teacher.img_size and list(teacher.img_size),
            fingerprint=self._fingerprint_of(teacher))

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Store the teacher's source and fingerprint."""
        teacher = _teacher_of(runner)
        if teacher is not None:
            checkpoint.setdefault('meta',
                                  {})['teacher'] = self._describe(teacher)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Compare when a run is resumed.

        Raises:
            ValueError: If the checkpoint was written with another teacher.
        """
        stored = checkpoint.get('meta', {}).get('teacher')
        teacher = _teacher_of(runner)
        if stored is None or teacher is None or not runner._resume:
            return
        if stored['fingerprint'] != self._fingerprint_of(teacher):
            before = ', '.join(f'{name}={value}'
                               for name, value in stored.items())
            now = ', '.join(f'{name}={value}'
                            for name, value in self._describe(teacher).items())
            raise ValueError(
                f'This run was started with another teacher: {before}; now '
                f'{now}. Give the same teacher to resume, or start a new run '
                'from these weights with load_from and resume=False.')


def _teacher_of(runner) -> Optional[Teacher]:
    return getattr(unwrapped_model(runner), 'teacher', None)
