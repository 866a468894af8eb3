"""What the study on photographs trains: the table of its jobs."""
import copy
import functools
import json
import os.path as osp
import re
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple

from dmae_mm.host import quietly
from dmae_mm.launch.recipe_length import set_epochs
from mmengine.config import Config, ConfigDict

from .bfloat16_wrapper import Bfloat16Wrapper
from .recipe_costs import count_gflop
from .recipes_page import PAGE, ROOT, read_page
from .study_jobs import (DMAE, FINETUNE, LOGITS, MAE, MASK, PAIRS, STUDENT,
                         TEACHER, WEIGHT, Job, load_config)

EPOCHS = 4  # of pre-training on 10,000 images
TEACHER_EPOCHS = 8  # on all training images, 50,000 of CIFAR-10
BATCH = 128
WIDTH, DECODER_WIDTH = 96, 64  # of the student, 4 blocks and 1
TEACHER_WIDTH, TEACHER_DECODER_WIDTH = 192, 96  # 8 blocks and 2
LENGTHS = (0.25, 0.5, 1, 2, 4)  # times EPOCHS
MASKS = (0.75, 0.9, 0.95, 0.98)
LR_OPTION = 'optim_wrapper.optimizer.lr'
# Labels in per cent: epochs of fine-tuning, images of a batch.
LABELS = {100: (3, BATCH), 10: (15, 50), 1: (40, 20)}
ONCE = 'once'  # stands for the seed of a job that all seeds share

# Recipe of docs/recipes.md, and the loss weight that is tried first: losses
# have scales of their own.
L1 = 'l1'  # the paper's, and the default of the configs
OBJECTIVES: Dict[str, Tuple[str, Optional[str], float]] = {
    L1: ('L1 on normalised features', None, 10.),
    'l2': ('L2 on normalised features', 'vit-s_dmae-l2', 300.),
    'cosine': ('cosine', 'vit-b_dmae-cosine', 1.),
    'smooth-l1':
    ('smooth L1 on normalised features', 'vit-b_dmae-smoothl1', 300.),
    'layer': ('smooth L1, layer-normalised', 'vit-s_dmae-layer', 1.),
    'standardised': ('standardised (UNIC)', 'vit-s_dmae-unic', 1.),
    'phi-s': ('PHI-S', 'vit-s_dmae-phis', 1.),
    'tokens': ('token relations', 'vit-s_dmae-tokens', 1.),
    'qkv': ('QKV relations', 'vit-s_dmae-qkv-visible', 1.),
    'amd': ('AMD', 'vit-s_dmae-amd', 1.),
    'see-half': ('L1, teacher sees half', 'vit-s_dmae-see-half', 10.),
    'g2sd': ('G2SD', 'vit-s_dmae-g2sd', 1.),
    'two': ('L1, two teachers', None, 10.),
}
LRS = (1e-3, 2e-3, 4e-3)
FACTORS = (1 / 3, 1, 3)  # of the loss weight, in the choice
DEFAULTS = dict(
    lr=dict(mae=2e-3, dmae=2e-3),
    weights={name: weight for name, (_, _, weight) in OBJECTIVES.items()})

NO_TEACHER = {'model.teacher': None, PAIRS: []}
RGB = {'model.data_preprocessor.to_rgb': True}
BATCHES = {'train_dataloader.batch_size': BATCH}
ARCH = {
    'model.backbone.arch.embed_dims': WIDTH,
    'model.backbone.arch.feedforward_channels': 4 * WIDTH
}
DECODER = {
    'model.neck.embed_dim': WIDTH,
    'model.neck.decoder_embed_dim': DECODER_WIDTH,
    'model.neck.decoder_depth': 1,
    'model.neck.decoder_num_heads': 4
}


def _arch_of_teacher(path: str) -> dict:
    return {
        f'{path}.arch.embed_dims': TEACHER_WIDTH,
        f'{path}.arch.feedforward_channels': 4 * TEACHER_WIDTH
    }


OWN = {**_arch_of_teacher('model.teacher.backbone'), TEACHER: '{teacher}'}
TEACHERS_DECODER = dict(
    type='MAEPretrainDecoder',
    decoder_embed_dim=TEACHER_DECODER_WIDTH,
    decoder_depth=2,
    decoder_num_heads=3)


@dataclass(frozen=True)
class PhotographJob(Job):
    """One training.

    Attributes:
        name (str): See :class:`Job`, as the following.
        config (str): Likewise.
        options (dict): Likewise; '{teacher}' may lie deeper in it.
        group (str): Table in which it stands. Defaults to ''.
        title (str): Its row there. Defaults to ''.
        epochs (int): Defaults to EPOCHS.
        once (bool): Whether all seeds share it. Defaults to False.
    """
    group: str = ''
    title: str = ''
    epochs: int = EPOCHS
    once: bool = False

    @property
    def needs(self) -> List[str]:
        return list(
            dict.fromkeys(
                re.findall(r'"\{([^"{}]+)\}"', json.dumps(self.options))))


@dataclass(frozen=True)
class Setting:
    """What the jobs depend on.

    Attributes:
        data_dir (str): From ``study_data.prepare``.
        out_dir (str): Folder of all jobs.
        teacher_data (str): Folder of the images of the teacher, ``all``.
        teacher_dir (str): Folder of the teacher itself, which the choice and
            the study share.
        num_classes (int): Defaults to 10.
        num_train (int): Images that students see. Defaults to 10,000.
        choices (dict): As ``DEFAULTS``. Defaults to that.
        external (dict, optional): Section of a teacher trained by others.
            Defaults to None.
        extra (dict): Options for all jobs. Defaults to {}.
    """
    data_dir: str
    out_dir: str
    teacher_data: str
    teacher_dir: str
    num_classes: int = 10
    num_train: int = 10_000
    choices: dict = field(default_factory=lambda: DEFAULTS)
    external: Optional[dict] = None
    extra: dict = field(default_factory=dict)


def pretraining(kind: str, setting: Setting) -> dict:
    """Options of all ViT students: ``kind`` is 'mae' or 'dmae'."""
    return {
        **BATCHES,
        **ARCH,
        **DECODER,
        **RGB, LR_OPTION: setting.choices['lr'][kind]
    }


def dmae(setting: Setting, objective: str = L1) -> dict:
    """Options of DMAE with an objective, at its chosen loss weight."""
    options = {
        **pretraining('dmae', setting),
        **OWN, WEIGHT: setting.choices['weights'][objective]
    }
    recipe = OBJECTIVES[objective][1]
    if recipe is not None:
        options = {**recipe_options(recipe), **options}
    if objective == 'g2sd':
        options['model.teacher.neck'] = TEACHERS_DECODER
    if objective == 'phi-s' and setting.num_train < 1000:  # its default
        options['model.target.num_images'] = setting.num_train
    if objective == 'two':
        options = _two_teachers(options, setting)
    return options


def _two_teachers(options: dict, setting: Setting) -> dict:
    """The own teacher, and the external or the fine-tuned one."""
    weight = options[WEIGHT]
    options = {
        key: value
        for key, value in options.items()
        if not key.startswith(('model.teacher', 'model.distill'))
    }
    own = dict(
        type='MMPretrainTeacher',
        backbone=dict(
            type='MAEViT',
            arch=dict(
                embed_dims=TEACHER_WIDTH,
                num_layers=8,
                num_heads=4,
                feedforward_channels=4 * TEACHER_WIDTH),
            img_size=32,
            patch_size=4),
        checkpoint='{teacher}')
    other = setting.external or dict(
        own, checkpoint='{teacher-finetuned-10pct}')
    taught = dict(
        aligned_layers=[(0.75, 0.75)],
        distill_neck=dict(type='FeatureProjectionNeck', projector='linear'),
        distill_loss=dict(
            type='FeatureAlignmentLoss', loss_weight=weight / 2))
    return {
        **options,
        **NO_TEACHER, 'model.distill_neck': None,
        'model.distill_loss': None,
        'model.teachers': {
            'own': dict(taught, teacher=own),
            'other': dict(taught, teacher=other)
        }
    }


@functools.cache
def _rows() -> dict:
    return read_page(PAGE.read_text(encoding='utf-8'))


@functools.cache
def recipe_options(name: str) -> dict:
    """What a recipe changes in the model of ``vit-s_dmae``: the options of
    its row, or what its file says."""
    row = _rows()[name]
    if row.options:
        return row.parsed_options()
    base = Config.fromfile(ROOT / 'configs/dmae/vit-s_dmae_in1k.py').model
    return _changes(
        Config.fromfile(row.config).model.to_dict(), base.to_dict(), 'model')


def _changes(new: Any, old: Any, path: str) -> dict:
    if new == old:
        return {}
    if not isinstance(new, dict) or not isinstance(old, dict):
        return {path: new}
    if old.keys() - new.keys():
        return {
            f'{path}.{key}': value
            for key, value in dict(new, _delete_=True).items()
        }
    found = {}
    for key, value in new.items():
        found.update(_changes(value, old.get(key), f'{path}.{key}'))
    return found


def teachers(setting: Setting) -> List[PhotographJob]:
    """Those that all seeds share: pre-trained, and fine-tuned by labels."""
    neck = {
        'model.neck.embed_dim': TEACHER_WIDTH,
        'model.neck.decoder_embed_dim': TEACHER_DECODER_WIDTH
    }
    arch = _arch_of_teacher('model.backbone')
    jobs = [
        PhotographJob(
            'teacher', 'vit-teacher_mae_digits.py', {
                **BATCHES,
                **arch,
                **neck,
                **RGB
            }, 'Teachers', 'the teacher (plain MAE, 8 blocks of 192)',
            TEACHER_EPOCHS, True)
    ]
    for percent, (epochs, _) in LABELS.items():
        jobs.append(
            PhotographJob(
                f'teacher-finetuned{suffix(percent)}',
                'vit-teacher_finetune_digits.py', {
                    **labelled(percent, setting, TEACHER_WIDTH),
                    **arch, STUDENT: '{teacher}'
                }, 'Labels', f'the teacher, fine-tuned, {percent}%', epochs,
                True))
    return jobs


def suffix(percent: int) -> str:
    """'' of all labels, '-10pct' of a part."""
    return '' if percent == 100 else f'-{percent}pct'


def labelled(percent: int, setting: Setting, width: int = WIDTH) -> dict:
    """Options of a training with a part of the labels."""
    options = {
        'train_dataloader.batch_size': LABELS[percent][1],
        'model.head.in_channels': width,
        'data_preprocessor.to_rgb': True
    }
    if setting.num_classes != 10:
        options.update({
            'model.head.num_classes': setting.num_classes,
            'data_preprocessor.num_classes': setting.num_classes
        })
    if percent < 100:
        # Seen from the folder of the images.
        options.update({
            'train_dataloader.dataset.type': 'ImageSubset',
            'train_dataloader.dataset.ann_file': f'../{percent}pct.txt'
        })
    return options


def all_jobs(setting: Setting) -> List[PhotographJob]:
    """All jobs of a seed and the shared ones, each behind what it needs."""
    paper = dmae(setting)
    mae_options = pretraining('mae', setting)
    jobs = teachers(setting)

    def add(group: str, name: str, title: str, config: str, options: dict,
            epochs: int = EPOCHS) -> PhotographJob:
        jobs.append(
            PhotographJob(name, config, options, group, title, epochs))
        return jobs[-1]

    group = 'DMAE and plain MAE'
    add(group, 'mae', 'plain MAE', MAE, mae_options)
    base = add(group, 'dmae', 'DMAE, chosen weight', DMAE, paper)
    add(group, 'dmae-weight1', "DMAE, weight 1 (the paper's)", DMAE, {
        **paper, WEIGHT: 1.
    })

    def equal_compute(options: dict, config: str,
                      other: PhotographJob = base) -> int:
        one = cost_of(PhotographJob('', config, options), setting)
        return max(1, round(EPOCHS * cost_of(other, setting) / one))

    longer = equal_compute(mae_options, MAE)
    add(group, 'mae-compute', "plain MAE at DMAE's compute", MAE, mae_options,
        longer)

    group = 'Masks'
    for mask in MASKS[1:]:
        percent = f'{100 * mask:.0f}'
        add(group, f'mae-mask{percent}', f'plain MAE, mask {percent}%', MAE, {
            **mae_options, MASK: mask
        })
        add(group, f'dmae-mask{percent}', f'DMAE, mask {percent}%', DMAE, {
            **paper, MASK: mask
        })

    group = 'Depth'
    for depth, title in ((0.25, '1/4'), (0.5, '1/2'), (1., 'last block')):
        add(group, f'dmae-depth{100 * depth:.0f}', f'DMAE, aligned at {title}',
            DMAE, {
                **paper, PAIRS: [(depth, depth)]
            })

    group = 'Teachers'
    for percent, title in ((100, "all labels, the paper's way"),
                           (10, '10% of the labels')):
        add(group, f'dmae-finetuned{suffix(percent)}',
            f'DMAE, teacher fine-tuned on {title}', DMAE, {
                **paper, TEACHER: '{teacher-finetuned%s}' % suffix(percent)
            })
    if setting.external is not None:
        own = {
            key: value
            for key, value in paper.items()
            if not key.startswith('model.teacher.')
        }
        section = {
            f'model.teacher.{key}': value
            for key, value in dict(setting.external, _delete_=True).items()
        }
        # A large teacher is cheap only where few patches are visible: to be
        # compared with dmae-mask90.
        add(group, 'dmae-external', 'DMAE, external teacher, mask 90%', DMAE,
            {
                **own,
                **section, MASK: 0.9
            })

    for objective, (title, _, _) in OBJECTIVES.items():
        if objective == L1:
            continue  # the job 'dmae'
        options = dmae(setting, objective)
        config, other = (MAE if objective == 'two' else DMAE), base
        if objective == 'two':
            # Against dmae-mask90 as well, where the second one is large.
            for key in NO_TEACHER:
                del options[key]
            if setting.external is not None:
                options[MASK] = 0.9
                other, = (job for job in jobs if job.name == 'dmae-mask90')
                title += ', mask 90%'
        add('Objectives at equal updates', objective, title, config, options)
        epochs = equal_compute(options, config, other)
        if epochs != EPOCHS:
            add('Objectives at equal compute', f'{objective}-compute', title,
                config, options, epochs)

    group = 'Students'
    common = {**BATCHES, **RGB}
    rates = setting.choices['lr']
    for name, title, config, options in (
        ('timm', 'ViT of timm', 'timm-student_dmae_digits.py', {
            'model.backbone.model_kwargs.embed_dim': WIDTH,
            **DECODER
        }),
        ('swin', 'Swin-like', 'swin-student_dmae_digits.py', {
            'model.backbone.arch.embed_dims': 48,
            'model.backbone.arch.num_heads': [3, 6],
            'model.neck.in_channels': 96
        }),
        ('resnet', 'ResNet-18-like, 64 px', 'resnet-student_dmae_digits.py',
         {}),
        ('mobilenet', 'MobileNetV3-S-like, 64 px',
         'mobilenet-student_features_digits.py', {})):
        options = {**common, **options}
        with_it = {
            **options,
            **OWN, WEIGHT: setting.choices['weights'][L1],
            LR_OPTION: rates['dmae']
        }
        if name == 'mobilenet':
            # No pre-training without teacher exists of it: see
            # students_study.py.
            add(group, f'{name}-control', f'{title}, untrained', config, {
                **with_it, 'param_scheduler': [],
                LR_OPTION: 0.
            }, 1)
        else:
            add(group, f'{name}-control', f'{title}, no teacher', config, {
                **options,
                **NO_TEACHER, LR_OPTION: rates['mae']
            })
        add(group, name, f'{title}, with teacher', config, with_it)

    group = 'What makes it cheaper'
    light = {'model.neck.type': 'CrossAttentionDecoder'}
    for name, title, options in (
        ('light-decoder', 'light decoder, all masked patches predicted', {
            **light, 'model.neck.predict_ratio': 0.75
        }),
        ('third', 'light decoder, a third of them predicted', {
            **light, 'model.neck.predict_ratio': 0.25
        }),
        ('bfloat16', 'steps in bfloat16', {
            'optim_wrapper.type': Bfloat16Wrapper.__name__
        }),
        ('teacher-bfloat16', 'teacher in bfloat16', {
            'model.teacher.dtype': 'bfloat16'
        }),
        ('teacher-half', "teacher's block 4 of 8", {
            PAIRS: [(0.75, 0.5)]
        })):
        add(group, f'dmae-{name}', f'DMAE, {title}', DMAE, {
            **paper,
            **options
        })

    jobs += _finetuning(setting)

    group = 'Length of training'
    for length in LENGTHS:
        epochs = max(1, round(length * EPOCHS))
        if length != 1:
            add(group, f'mae-length{epochs}', f'plain MAE, {epochs} epochs',
                MAE, mae_options, epochs)
            add(group, f'dmae-length{epochs}', f'DMAE, {epochs} epochs', DMAE,
                paper, epochs)
    return jobs


def _finetuning(setting: Setting) -> List[PhotographJob]:
    jobs = []
    for percent, (epochs, _) in LABELS.items():
        part = {**labelled(percent, setting), **ARCH}
        end = suffix(percent)
        logits = {
            **_arch_of_teacher('model.teacher.model.backbone'),
            'model.teacher.model.head.in_channels': TEACHER_WIDTH, TEACHER:
            '{teacher-finetuned%s}' % end
        }
        if setting.num_classes != 10:
            logits['model.teacher.model.head.num_classes'] = (
                setting.num_classes)
        scratch = {**part, 'model.backbone.init_cfg': None}
        rows = [
            ('scratch', 'from scratch', FINETUNE, scratch, 2),
            ('scratch+logits', "from scratch, + fine-tuned teacher's logits",
             LOGITS, {
                 **scratch,
                 **logits
             }, 2),
            ('mae', 'after plain MAE', FINETUNE, {
                **part, STUDENT: '{mae}'
            }, 1),
            ('dmae', 'after DMAE', FINETUNE, {
                **part, STUDENT: '{dmae}'
            }, 1),
        ]
        if percent > 1:
            rows.append(('dmae-finetuned',
                         'after DMAE from the fine-tuned teacher', FINETUNE, {
                             **part, STUDENT: '{dmae-finetuned%s}' % end
                         }, 1))
        jobs += [
            PhotographJob(f'labels{percent}_{name}', config, options, 'Labels',
                          f'{percent}% of the labels, {title}', times * epochs)
            for name, title, config, options, times in rows
        ]
    return jobs


def choice_jobs(setting: Setting) -> List[PhotographJob]:
    """The grid of ``--choose``: named by objective, option and value."""
    epochs = max(1, EPOCHS // 2)
    jobs = [
        PhotographJob(f'mae lr {rate:g}', MAE, {
            **pretraining('mae', setting), LR_OPTION: rate
        }, 'lr', 'mae', epochs) for rate in LRS
    ]
    jobs += [
        PhotographJob(f'dmae lr {rate:g}', DMAE, {
            **dmae(setting), LR_OPTION: rate
        }, 'lr', 'dmae', epochs) for rate in LRS
    ]
    for objective, (_, _, weight) in OBJECTIVES.items():
        if objective == 'two':
            continue  # as one teacher, each with half of the weight
        for factor in FACTORS:
            value = float(f'{weight * factor:.1g}')
            jobs.append(
                PhotographJob(f'{objective} weight {value:g}', DMAE, {
                    **dmae(setting, objective), WEIGHT: value
                }, 'weights', objective, epochs))
    return jobs


def chosen(jobs: List[PhotographJob], results: Dict[str, dict]) -> dict:
    """The best value of each option, by the mean of kNN and linear probe.

    Args:
        jobs (list[PhotographJob]): Of :func:`choice_jobs`.
        results (dict[str, dict]): Accuracies by name of the job.

    Returns:
        dict: As ``DEFAULTS``.
    """
    best: Dict[Tuple[str, str], Tuple[float, float]] = {}
    for job in jobs:
        found = results[job.name]
        value = float(job.name.split()[-1])
        key = job.group, job.title
        best[key] = max(
            best.get(key, (0., 0.)), (found['knn'] + found['linear'], value))
    options = copy.deepcopy(DEFAULTS)
    for (group, name), (_, value) in best.items():
        options[group][name] = value
    options['weights']['two'] = options['weights'][L1]
    return options


def _resolved(value: Any, setting: Setting, out_dir: str) -> Any:
    """With paths in the place of the names of jobs."""
    if isinstance(value, dict):
        return {
            key: _resolved(item, setting, out_dir)
            for key, item in value.items()
        }
    if not isinstance(value, str) or not re.fullmatch(r'\{.+\}', value):
        return value
    name = value[1:-1]
    return osp.join(folder_of(name, setting, out_dir), name, 'final.pth')


def folder_of(name: str, setting: Setting, out_dir: str) -> str:
    """Folder of the jobs of a seed, or of the shared ones."""
    if name == 'teacher':
        return setting.teacher_dir
    if name.startswith('teacher-'):
        return osp.join(setting.out_dir, ONCE)
    return out_dir


def load(job: PhotographJob, seed: int, setting: Setting) -> Config:
    """The config of a job as it will run.

    Args:
        job (PhotographJob): The job.
        seed (int): Of weights, masks and order of the images. A shared job
            has seed 0.
        setting (Setting): Where everything lies, and what was chosen.

    Returns:
        Config: Complete, with the paths of checkpoints that may not exist
        yet.
    """
    out_dir = osp.join(setting.out_dir, f'seed{seed}')
    options = _resolved(job.options, setting, out_dir)
    cfg = load_config(
        Job(job.name, job.config, options), 0 if job.once else seed,
        setting.data_dir, folder_of(job.name, setting, out_dir), {})
    if job.name == 'teacher':
        cfg.train_dataloader.dataset.data_root = setting.teacher_data
    # Photographs have no orientation, and are less simple than digits.
    pipeline = cfg.train_dataloader.dataset.pipeline
    crop, = (step for step in pipeline if step.type == 'RandomResizedCrop')
    crop.crop_ratio_range = (0.5, 1.0)
    pipeline.insert(
        pipeline.index(crop) + 1,
        ConfigDict(type='RandomFlip', prob=0.5, direction='horizontal'))
    set_epochs(cfg, job.epochs)
    if cfg.train_cfg.get('val_interval'):
        cfg.train_cfg.val_interval = job.epochs
    # Only a training of an hour can be worth going on with.
    cfg.default_hooks.checkpoint.interval = (
        1 if job.name == 'teacher' else job.epochs)
    cfg.merge_from_dict(setting.extra)
    return cfg


_gflop: Dict[str, float] = {}


def gflop_per_image(cfg: Config) -> float:
    """Of one training step, counted: see recipe_costs.py."""
    crop, = (step for step in cfg.train_dataloader.dataset.pipeline
             if step.type == 'RandomResizedCrop')
    key = json.dumps([cfg.model.to_dict(), crop.scale], sort_keys=True)
    # Paths of checkpoints cost nothing.
    key = re.sub(r'"checkpoint": "[^"]*"', '', key)
    if key not in _gflop:
        cfg = copy.deepcopy(cfg)
        # What shapes do not have: see build() of recipe_costs.py.
        cfg.model.pop('data_preprocessor', None)
        (cfg.model.get('teacher') or {}).pop('dtype', None)
        with quietly():
            _gflop[key] = count_gflop(cfg)['total']
    return _gflop[key]


def cost_of(job: PhotographJob, setting: Setting) -> float:
    """GFLOP for one image of a training step."""
    return gflop_per_image(load(job, 0, setting))
