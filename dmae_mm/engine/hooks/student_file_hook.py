import os.path as osp

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import find_latest_checkpoint
from mmpretrain.models.selfsup import BaseSelfSupervisor
from mmpretrain.registry import HOOKS

from dmae_mm.host import unwrapped_model
from dmae_mm.messages import one_line
from dmae_mm.options import reject_unknown_options
from dmae_mm.weights.export import export_student

NAME = 'student.safetensors'


@HOOKS.register_module()
@reject_unknown_options
class StudentFileHook(Hook):
    """Leaves the student of a pre-training as a file that others load.

    At the end, ``student.safetensors`` is written beside the last checkpoint,
    from that file: plain tensors under timm's names where timm can build the
    student, else under those of its backbone (see :func:`export_student`).
    The log has the code that loads it. With an ``EMAHook``, the weights are
    the averaged ones, as always in exports.

    A run does not fail because of it: what goes wrong is a warning, with the
    command that repeats it. Models that are not pre-trained, such as
    classifiers, are left alone.
    """

    priority = 'LOWEST'  # when the last checkpoint is there

    def after_train(self, runner) -> None:
        """Write the file."""
        if not is_main_process() or not isinstance(
                unwrapped_model(runner), BaseSelfSupervisor):
            return
        config = osp.join(
            runner.work_dir,
            osp.basename(runner.cfg.filename) if runner.cfg.filename else
            f'{runner.timestamp}.py')
        checkpoint = find_latest_checkpoint(runner.work_dir)
        if checkpoint is None:
            runner.logger.warning('There is no checkpoint, so no student is '
                                  'exported.')
            return
        path = osp.join(osp.dirname(checkpoint), NAME)
        try:
            student = export_student(config, checkpoint, path)
        except Exception as error:  # the training itself has succeeded
            runner.logger.warning(
                f'The student could not be written to {path}: '
                f'{one_line(error)} The checkpoint {checkpoint} is as it was. '
                'To try again: python tools/model_converters/export.py '
                f'{config} {checkpoint} {path} --to timm --num-classes 0 '
                '--force')
            return
        notes = ''.join(f' Note: {note}.' for note in student.notes)
        runner.logger.info(
            f'The student is in {path}, with the names of {student.names}.'
            f'{notes} It is loaded by:\n{student.usage}')
