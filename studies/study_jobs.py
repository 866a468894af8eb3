"""What the study trains: one job is one training with its evaluation."""
import contextlib
import hashlib
import json
import multiprocessing
import os
import os.path as osp
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Dict, List

import dmae_mm
import mmengine
import mmpretrain
import sklearn
import timm
import torch
from dmae_mm.evaluation.digits import evaluate, final_checkpoint
from mmengine.config import Config
from mmengine.runner import Runner

CONFIGS = osp.join(
    osp.dirname(osp.dirname(osp.abspath(__file__))), 'configs', 'digits')
MAE = 'vit-student_mae_digits.py'
DMAE = 'vit-student_dmae_digits.py'
FINETUNE = 'vit-student_finetune_digits.py'
LOGITS = 'vit-student_finetune-logits_digits.py'
FEATURES = 'vit-student_finetune-features_digits.py'

PACKAGES = (dmae_mm, torch, timm, mmengine, mmpretrain, sklearn)

TEACHER = 'model.teacher.checkpoint'
STUDENT = 'model.backbone.init_cfg.checkpoint'
MASK = 'model.backbone.mask_ratio'
PAIRS = 'model.aligned_layers'
WEIGHT = 'model.distill_loss.loss_weight'
LIGHT_DECODER = {
    'model.neck.type': 'CrossAttentionDecoder',
    'model.neck.predict_ratio': 0.25,
}

FROM_SCRATCH = {'model.backbone.init_cfg': None}
# 140 labelled images in batches of 20: 7 iterations an epoch instead of 23.
TENTH = {
    'train_dataloader.batch_size': 20,
    'train_dataloader.dataset.type': 'ImageSubset',
    'train_dataloader.dataset.ann_file': '{list}',
}


def _epochs(num: int) -> dict:
    return {
        'train_cfg.max_epochs': num,
        'train_cfg.val_interval': num,
        'param_scheduler.1.end': num,
        'default_hooks.checkpoint.interval': num
    }


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        name (str): Of the run and its folder.
        config (str): A file in ``configs/digits``.
        options (dict): What is changed in it, as after ``--cfg-options``.
            '{mae}' stands for the final checkpoint of the job ``mae``, which
            therefore has to be finished first, and '{list}' for the list of
            a tenth of the training digits.
    """
    name: str
    config: str
    options: Dict[str, object]

    @property
    def needs(self) -> List[str]:
        """Names of the jobs whose checkpoints this one starts from."""
        return [
            value[1:-1] for value in self.options.values()
            if isinstance(value, str) and value.startswith('{')
            and value != '{list}'
        ]


def _pretraining() -> List[Job]:
    def mae(name: str, **options: object) -> Job:
        return Job(name, MAE, options)

    def dmae(name: str, teacher: str = '{teacher}', **options: object) -> Job:
        return Job(name, DMAE, {TEACHER: teacher, **options})

    return [
        mae('mae'),
        dmae('dmae'),
        *(mae(f'mae-mask{ratio:.0%}'[:-1], **{MASK: ratio})
          for ratio in (0.9, 0.95)),
        *(dmae(f'dmae-mask{ratio:.0%}'[:-1], **{MASK: ratio})
          for ratio in (0.9, 0.95)),
        *(dmae(f'dmae-depth{depth:.0%}'[:-1], **{PAIRS: [(depth, depth)]})
          for depth in (0.25, 0.5, 1.0)),
        *(dmae(f'dmae-weight{weight}', **{WEIGHT: float(weight)})
          for weight in (1, 3, 30)),
        dmae('dmae-light-decoder', **LIGHT_DECODER),
        dmae('dmae-finetuned-teacher', teacher='{teacher-finetuned}'),
    ]


def _finetuning(tenth: bool) -> List[Job]:
    """Supervised training of students, on all labels or a tenth of them."""
    suffix, options, epochs = '', {}, 20
    if tenth:
        suffix, options, epochs = '-tenth', TENTH, 50
    teacher = {TEACHER: '{teacher-finetuned%s}' % suffix}

    def pretrained(name: str, config: str, **more: object) -> Job:
        return Job(f'finetune{suffix}_{name}', config, {
            **options,
            **_epochs(epochs),
            **more
        })

    def scratch(name: str, config: str, **more: object) -> Job:
        # Twice the epochs: as many as before and after pre-training.
        return Job(f'finetune{suffix}_{name}', config, {
            **options,
            **FROM_SCRATCH,
            **_epochs(2 * epochs),
            **more
        })

    jobs = [
        pretrained('mae', FINETUNE, **{STUDENT: '{mae}'}),
        pretrained('dmae', FINETUNE, **{STUDENT: '{dmae}'}),
        pretrained('dmae+logits', LOGITS, **{STUDENT: '{dmae}'}, **teacher),
        scratch('scratch', FINETUNE),
    ]
    if not tenth:
        # Labels alone leave a teacher about one point to add, and these would
        # be the longest trainings of all.
        return jobs
    return jobs + [
        scratch('scratch+logits', LOGITS, **teacher),
        scratch('scratch+hard-logits', LOGITS, **teacher,
                **{'model.logit_loss.mode': 'hard',
                   'model.logit_loss.temperature': 1.0}),
        scratch('scratch+features', FEATURES, **teacher),
    ]


def all_jobs() -> List[Job]:
    """The jobs of one seed, each behind those that it needs."""
    teacher = {STUDENT: '{teacher}'}
    finetune_teacher = 'vit-teacher_finetune_digits.py'
    return [
        Job('teacher', 'vit-teacher_mae_digits.py', {}),
        Job('teacher-finetuned', finetune_teacher, {**teacher, **_epochs(10)}),
        Job('teacher-finetuned-tenth', finetune_teacher,
            {**teacher, **TENTH, **_epochs(50)}),
        *_pretraining(),
        *_finetuning(tenth=False),
        Job('finetune_dmae-finetuned-teacher', FINETUNE,
            {STUDENT: '{dmae-finetuned-teacher}'}),
        *_finetuning(tenth=True),
    ]


def load_config(job: Job, seed: int, data_dir: str, out_dir: str,
                extra: dict) -> Config:
    """The config of a job as it will run.

    Args:
        job (Job): The job.
        seed (int): Seed of the run and of the tenth of the labels.
        data_dir (str): Folder of the digits, with ``train`` and ``test``.
        out_dir (str): Folder of all jobs of this seed.
        extra (dict): Further options, for all jobs.

    Returns:
        Config: Complete, with the paths of checkpoints that may not exist
        yet.
    """
    cfg = Config.fromfile(osp.join(CONFIGS, job.config))
    cfg.work_dir = osp.join(out_dir, job.name)
    cfg.randomness.seed = seed
    # That of the study's own processes; there are no others.
    cfg.env_cfg.mp_cfg.mp_start_method = 'spawn'
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if loader is not None:
            loader.dataset.data_root = osp.join(
                data_dir, 'train' if split == 'train' else 'test')
    options = dict(job.options)
    for key, value in options.items():
        if value == '{list}':
            options[key] = osp.abspath(f'{data_dir}/tenth_seed{seed}.txt')
        elif isinstance(value, str) and value.startswith('{'):
            options[key] = osp.join(out_dir, value[1:-1], 'final.pth')
    cfg.merge_from_dict({**options, **extra})
    return cfg


def versions() -> Dict[str, str]:
    """What the results depend on beside the configs."""
    return dict(
        Python=platform.python_version(),
        **{package.__name__: package.__version__
           for package in PACKAGES})


def fingerprint(cfg: Config) -> str:
    """Tells whether a finished job is the one that is wanted."""
    said = json.dumps([cfg.to_dict(), versions()], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def finished_result(cfg: Config) -> dict:
    """What :func:`run_job` wrote, or an empty dict."""
    try:
        with open(osp.join(cfg.work_dir, 'result.json')) as file:
            result = json.load(file)
    except FileNotFoundError:
        return {}
    return result if result['fingerprint'] == fingerprint(cfg) else {}


def one_thread_each(processes: int) -> ProcessPoolExecutor:
    """A pool whose processes have a core each for themselves."""
    # NumPy and PyTorch read these when they are imported there.
    for variable in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS',
                     'OPENBLAS_NUM_THREADS'):
        os.environ[variable] = '1'
    return ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context('spawn'))


def run_job(cfg: Config, data_dir: str) -> dict:
    """Train, evaluate and write ``result.json``.

    Args:
        cfg (Config): From :func:`load_config`.
        data_dir (str): Folder of the digits.

    Returns:
        dict: Accuracies in percent ('knn' and 'linear' after pre-training,
        'top1' of a classifier), 'seconds' of the training and the
        'fingerprint' of the config.
    """
    mark = fingerprint(cfg)  # before the runner adds to the config
    start = time.time()
    with open(os.devnull, 'w') as null, contextlib.redirect_stdout(null):
        runner = Runner.from_cfg(cfg)
        runner.train()
    result = dict(fingerprint=mark, seconds=round(time.time() - start, 1))
    if cfg.get('val_evaluator') is None:
        result.update(evaluate(cfg, runner.model, data_dir))
    else:
        top1 = runner.message_hub.get_scalar('val/accuracy/top1').current()
        result.update(top1=round(float(top1), 2))
    # Only now: a job that is stopped has no result and runs anew.
    os.replace(final_checkpoint(cfg.work_dir),
               osp.join(cfg.work_dir, 'final.pth'))
    file = osp.join(cfg.work_dir, 'result.json')
    with open(f'{file}.part', 'w') as stream:
        json.dump(result, stream, indent=2)
    os.replace(f'{file}.part', file)
    return result
