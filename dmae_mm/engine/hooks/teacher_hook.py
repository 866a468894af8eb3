from typing import Optional

from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS

from dmae_mm.host import unwrapped_model
from dmae_mm.models.teachers import Teacher
from dmae_mm.options import reject_unknown_options


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

    # Computed once: reading a large teacher's weights takes seconds.
    _fingerprint: Optional[str] = None

    def _describe(self, teacher: Teacher) -> dict:
        if self._fingerprint is None:
            self._fingerprint = teacher.fingerprint()
        return dict(
            type=type(teacher).__name__,
            checkpoint=teacher.checkpoint,
            aligned_blocks=list(teacher.aligned_blocks),
            dtype=str(teacher.dtype),
            img_size=teacher.img_size and list(teacher.img_size),
            fingerprint=self._fingerprint)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Store the teacher's source and fingerprint."""
        teacher = getattr(unwrapped_model(runner), 'teacher', None)
        if teacher is not None:
            meta = checkpoint.setdefault('meta', {})
            meta['teacher'] = self._describe(teacher)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Compare when a run is resumed.

        Raises:
            ValueError: If the checkpoint was written with another teacher.
        """
        before = checkpoint.get('meta', {}).get('teacher')
        teacher = getattr(unwrapped_model(runner), 'teacher', None)
        if before is None or teacher is None or not runner._resume:
            return
        now = self._describe(teacher)
        if before['fingerprint'] != now['fingerprint']:
            before, now = (
                ', '.join(f'{name}={value}' for name, value in each.items())
                for each in (before, now))
            raise ValueError(
                f'This run was started with another teacher: {before}; now '
                f'{now}. Give the same teacher to resume, or start a new run '
                'from these weights with load_from and resume=False.')
