from typing import Dict

from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS

from dmae_mm.host import unwrapped_model
from dmae_mm.models.teachers import Teacher
from dmae_mm.options import reject_unknown_options


@HOOKS.register_module()
@reject_unknown_options
class TeacherHook(Hook):
    """Writes into each checkpoint who taught, and resumes only with them.

    A checkpoint holds no tensor of a teacher. What a run needs to go on as if
    it had never stopped are the same teachers; this hook stores the source
    and fingerprint of a single one under ``checkpoint['meta']['teacher']``,
    of several by name under ``checkpoint['meta']['teachers']``, and refuses
    to resume with others. Loading weights without resuming is not restricted.
    """

    def __init__(self) -> None:
        # Computed once: reading a large teacher's weights takes seconds.
        self._fingerprints: Dict[str, str] = {}

    def _describe(self, name: str, teacher: Teacher) -> dict:
        if name not in self._fingerprints:
            self._fingerprints[name] = teacher.fingerprint()
        return dict(
            type=type(teacher).__name__,
            checkpoint=teacher.checkpoint,
            aligned_blocks=list(teacher.aligned_blocks),
            dtype=str(teacher.dtype),
            img_size=teacher.img_size and list(teacher.img_size),
            fingerprint=self._fingerprints[name])

    def _describe_all(self, runner) -> Dict[str, dict]:
        teachers = getattr(unwrapped_model(runner), 'teachers', {})
        return {
            name: self._describe(name, teacher)
            for name, teacher in teachers.items()
        }

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Store each teacher's source and fingerprint."""
        said = self._describe_all(runner)
        meta = checkpoint.setdefault('meta', {})
        if '' in said:
            meta['teacher'] = said['']
        elif said:
            meta['teachers'] = said

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Compare when a run is resumed.

        Raises:
            ValueError: If the checkpoint was written with another teacher.
        """
        meta = checkpoint.get('meta', {})
        before = meta.get('teachers', {})
        if 'teacher' in meta:
            before = {'': meta['teacher']}
        if not before or not runner._resume:
            return
        now = self._describe_all(runner)
        if now and before.keys() != now.keys():
            before, now = (
                'a single teacher' if '' in each else
                f'teachers {", ".join(each)}' for each in (before, now))
            raise ValueError(
                f'This run was started with {before}; the config has {now}. '
                f'{_ADVICE}')
        for name, said in now.items():
            if said['fingerprint'] != before[name]['fingerprint']:
                then, said = (
                    ', '.join(f'{key}={value}' for key, value in each.items())
                    for each in (before[name], said))
                of_name = f' as {name!r}' * bool(name)
                raise ValueError(
                    f'This run was started with another teacher{of_name}: '
                    f'{then}; now {said}. {_ADVICE}')


_ADVICE = ('Give the same teacher to resume, or start a new run from these '
           'weights with load_from and resume=False.')
