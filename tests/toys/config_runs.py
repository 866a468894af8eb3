"""The ImageNet configs on models, images and batches of toy size."""
from pathlib import Path

from mmengine.config import Config

from tests.toys.models import STUDENT, TEACHER

TOY_IMAGES = dict(img_size=32, patch_size=8)


def shrink_student(cfg: Config, patch_size: int = 8) -> None:
    """Of 32 px, with a random teacher of toy size, where there is one."""
    images = dict(img_size=32, patch_size=patch_size)
    cfg.model.backbone.update(arch=STUDENT, **images)
    cfg.model.neck.update(num_patches=(32 // patch_size)**2,
                          patch_size=patch_size,
                          embed_dim=24,
                          decoder_embed_dim=16,
                          decoder_depth=2,
                          decoder_num_heads=2)
    cfg.model.head.patch_size = patch_size
    if cfg.model.teacher is not None:
        cfg.model.teacher.update(backbone=dict(type='MAEViT',
                                               arch=TEACHER,
                                               **images),
                                 checkpoint=None,
                                 allow_random=True)


def shrink_classifier(cfg: Config) -> None:
    cfg.model.backbone.update(arch=STUDENT, **TOY_IMAGES)
    if cfg.model.backbone.get('frozen_stages'):
        cfg.model.backbone.frozen_stages = 4
        cfg.model.neck.input_features = 24
    cfg.model.head.update(in_channels=24, num_classes=5)
    cfg.data_preprocessor.num_classes = 5


def shrink_classifiers_teacher(cfg: Config) -> None:
    vit = dict(arch=TEACHER, **TOY_IMAGES)
    if cfg.model.teacher.type == 'ClassifierTeacher':
        cfg.model.teacher.model.backbone.update(vit)
        cfg.model.teacher.model.head.update(in_channels=32, num_classes=5)
    else:
        cfg.model.teacher.backbone.update(vit)


def shrink_run(cfg: Config, images: Path, work_dir: Path) -> None:
    """Batches of two small images, on the CPU."""
    cfg.work_dir = str(work_dir)
    cfg.optim_wrapper.type = 'OptimWrapper'  # automatic precision needs a GPU
    cfg.default_hooks.checkpoint.interval = 1000
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if name in cfg:
            cfg[name].update(
                batch_size=2, num_workers=0, persistent_workers=False)
            # Serialising would collect garbage, which takes longer than all
            # else of a toy run.
            cfg[name].dataset.update(type='CustomDataset',
                                     data_root=str(images),
                                     serialize_data=False)
            cfg[name].dataset.pop('split', None)
            for step in cfg[name].dataset.pipeline:
                if step.type in ('RandomResizedCrop',
                                 'FastRandomResizedCrop', 'ResizeEdge'):
                    step.scale = 32
                elif step.type == 'CenterCrop':
                    step.crop_size = 32
