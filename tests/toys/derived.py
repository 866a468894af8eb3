"""A config as `derive` makes it, of toy models, without asking timm."""
import copy
from types import SimpleNamespace

from mmengine.config import Config

from tests.toys.models import ROOT, TOY_MODEL, timm_student


def toy_derive(survey, teachers, student, *, size=None, epochs=None,
               quick=False):
    """As :func:`dmae_mm.workflow.derive.derive`."""
    cfg = Config.fromfile(ROOT / 'configs' / '_base_' / 'default_runtime.py')
    cfg.merge_from_dict(
        dict(
            model=dict(
                copy.deepcopy(TOY_MODEL),
                backbone=timm_student(),
                data_preprocessor=dict(
                    type='SelfSupDataPreprocessor',
                    mean=[127.5] * 3,
                    std=[127.5] * 3,
                    bgr_to_rgb=True)),
            train_dataloader=dict(
                batch_size=4,
                num_workers=0,
                sampler=dict(type='SeededSampler'),
                dataset=dict(
                    type='CustomDataset',
                    data_root=survey.root,
                    with_label=False,
                    extensions=('.png', '.jpg', '.jpeg'),
                    pipeline=[
                        dict(type='SeedSample'),
                        dict(type='LoadImageOrSkip'),
                        dict(type='RandomResizedCrop', scale=size or 32),
                        dict(
                            type='PackInputs',
                            meta_keys=('img_path', 'sample_idx',
                                       'skipped_images'))
                    ])),
            optim_wrapper=dict(
                type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3)),
            auto_scale_lr=dict(base_batch_size=4),
            train_cfg=dict(type='ResumableTrainLoop', max_epochs=epochs or 2)))
    return SimpleNamespace(
        config=cfg,
        reasons=[f'the student is {student.name}, and ' + 'so ' * 30],
        warnings=['a student larger than its teacher'])
