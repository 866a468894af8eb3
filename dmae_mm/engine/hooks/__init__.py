from .epoch_seed_hook import EpochSeedHook
from .online_probe_hook import OnlineProbeHook
from .pretrained_backbone_hook import PretrainedBackboneHook
from .teacher_hook import TeacherHook

__all__ = [
    'EpochSeedHook', 'OnlineProbeHook', 'PretrainedBackboneHook', 'TeacherHook'
]
