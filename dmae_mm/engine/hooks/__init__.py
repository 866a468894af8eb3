from .atomic_checkpoint_hook import AtomicCheckpointHook
from .calibration_hook import CalibrationHook
from .exact_resume_hook import ExactResumeHook
from .finite_loss_hook import FiniteLossHook
from .follow_config_hook import FollowConfigHook
from .learning_rate_hook import LearningRateHook
from .online_probe_hook import OnlineProbeHook
from .preemption_hook import PreemptionHook
from .pretrained_backbone_hook import PretrainedBackboneHook
from .progress_bar_hook import ProgressBarHook
from .reconstruction_visualization_hook import ReconstructionVisualizationHook
from .skipped_images_hook import SkippedImagesHook
from .student_file_hook import StudentFileHook
from .teacher_hook import TeacherHook

__all__ = [
    'AtomicCheckpointHook', 'CalibrationHook', 'ExactResumeHook',
    'FiniteLossHook', 'FollowConfigHook', 'LearningRateHook',
    'OnlineProbeHook', 'PreemptionHook', 'PretrainedBackboneHook',
    'ProgressBarHook', 'ReconstructionVisualizationHook', 'SkippedImagesHook',
    'StudentFileHook', 'TeacherHook'
]
