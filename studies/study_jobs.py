"""What the study trains: one job is one training with its evaluation."""
import copy
import functools
import hashlib
import json
import os
import os.path as osp
import time
from dataclasses import dataclass
from typing import Dict, List

from dmae_mm.evaluation.digits import evaluate, train
from dmae_mm.files import write_whole
from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint

from .seeds import prepare, versions

_read = functools.cache(Config.fromfile)  # a few files make all jobs
CONFIGS = osp.join(
    osp.dirname(osp.dirname(osp.abspath(__file__))), 'configs', 'digits')
MAE = 'vit-student_mae_digits.py'
DMAE = 'vit-student_dmae_digits.py'
FINETUNE = 'vit-student_finetune_digits.py'
LOGITS = 'vit-student_finetune-logits_digits.py'
FEATURES = 'vit-student_finetune-features_digits.py'

TEACHER = 'model.teacher.checkpoint'
STUDENT = 'model.backbone.init_cfg.checkpoint'
MASK = 'model.backbone.mask_ratio'
PAIRS = 'model.aligned_layers'
WEIGHT = 'model.distill_loss.loss_weight'
LIGHT_DECODER = {
    'model.neck.type': 'CrossAttentionDecoder',
    'model.neck.predict_ratio': 0.25,
}

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


def _finetuning(suffix: str, part: dict, epochs: int) -> List[Job]:
    """Supervised training of students, on all labels or a part of them."""
    teacher = {TEACHER: '{teacher-finetuned%s}' % suffix}
    mae = {STUDENT: '{mae}', **_epochs(epochs)}
    dmae = {STUDENT: '{dmae}', **_epochs(epochs)}
    # Twice the epochs: as many as before and after pre-training.
    scratch = {'model.backbone.init_cfg': None, **_epochs(2 * epochs)}
    hard = {'model.logit_loss.mode': 'hard',
            'model.logit_loss.temperature': 1.0}  # yapf: disable
    return [
        Job(f'finetune{suffix}_{name}', config, {**part, **options})
        for name, config, options in (
            ('mae', FINETUNE, mae),
            ('dmae', FINETUNE, dmae),
            ('dmae+logits', LOGITS, {**dmae, **teacher}),
            ('scratch', FINETUNE, scratch),
            ('scratch+logits', LOGITS, {**scratch, **teacher}),
            ('scratch+hard-logits', LOGITS, {**scratch, **teacher, **hard}),
            ('scratch+features', FEATURES, {**scratch, **teacher}),
        )
    ]


def all_jobs() -> List[Job]:
    """The jobs of one seed, each behind those that it needs."""
    finetune_teacher = 'vit-teacher_finetune_digits.py'
    begin = {STUDENT: '{teacher}'}
    teacher = {TEACHER: '{teacher}'}
    return [
        Job('teacher', 'vit-teacher_mae_digits.py', {}),
        Job('teacher-finetuned', finetune_teacher, {**begin, **_epochs(10)}),
        Job('teacher-finetuned-tenth', finetune_teacher,
            {**begin, **TENTH, **_epochs(50)}),
        Job('mae', MAE, {}),
        Job('dmae', DMAE, teacher),
        Job('mae-mask90', MAE, {MASK: 0.9}),
        Job('mae-mask95', MAE, {MASK: 0.95}),
        Job('dmae-mask90', DMAE, {**teacher, MASK: 0.9}),
        Job('dmae-mask95', DMAE, {**teacher, MASK: 0.95}),
        Job('dmae-depth25', DMAE, {**teacher, PAIRS: [(0.25, 0.25)]}),
        Job('dmae-depth50', DMAE, {**teacher, PAIRS: [(0.5, 0.5)]}),
        Job('dmae-depth100', DMAE, {**teacher, PAIRS: [(1.0, 1.0)]}),
        Job('dmae-weight1', DMAE, {**teacher, WEIGHT: 1.0}),
        Job('dmae-weight3', DMAE, {**teacher, WEIGHT: 3.0}),
        Job('dmae-weight30', DMAE, {**teacher, WEIGHT: 30.0}),
        Job('dmae-light-decoder', DMAE, {**teacher, **LIGHT_DECODER}),
        Job('dmae-finetuned-teacher', DMAE, {TEACHER: '{teacher-finetuned}'}),
        # All labels leave a teacher about one point to add to a student from
        # scratch, and these would be the longest trainings of all.
        *_finetuning('', {}, 20)[:4],
        Job('finetune_dmae-finetuned-teacher', FINETUNE,
            {STUDENT: '{dmae-finetuned-teacher}'}),
        *_finetuning('-tenth', TENTH, 50),
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
    cfg = copy.deepcopy(_read(osp.join(CONFIGS, job.config)))
    prepare(cfg, osp.join(out_dir, job.name), seed)
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


def run_job(cfg: Config, data_dir: str, resume: bool = False) -> dict:
    """Train, evaluate and write ``result.json``.

    Args:
        cfg (Config): From :func:`load_config`.
        data_dir (str): Folder of the digits.
        resume (bool): Go on from the last checkpoint in the folder. Defaults
            to False.

    Returns:
        dict: Accuracies in percent ('knn' and 'linear' after pre-training,
        'top1' of a classifier), 'seconds' of the training and the
        'fingerprint' of the config.
    """
    mark = fingerprint(cfg)  # before the runner adds to the config
    start = time.time()
    cfg.resume = resume
    runner = train(cfg)
    result = dict(fingerprint=mark, seconds=round(time.time() - start, 1))
    if cfg.get('val_evaluator') is None:
        result.update(evaluate(cfg, runner.model, data_dir))
    else:
        top1 = runner.message_hub.get_scalar('val/accuracy/top1').current()
        result.update(top1=round(float(top1), 2))
    # Only now: a job that is stopped has no result and runs anew.
    os.replace(find_latest_checkpoint(cfg.work_dir),
               osp.join(cfg.work_dir, 'final.pth'))
    with write_whole(osp.join(cfg.work_dir, 'result.json')) as file:
        with open(file, 'w') as stream:
            json.dump(result, stream, indent=2)
    return result
