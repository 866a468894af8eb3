"""A copy of the checkout in which the commands of the pages end soon.

Its configs are *toy editions*: students, image sizes and options are those of
the recipe, so that commands run as they are written; teachers are narrow,
images few, and one epoch is all. What a recipe would download is a file with
random weights.
"""
import multiprocessing
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable, Dict, List

import skimage
import timm
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from torchvision.models import VisionTransformer

from dmae_mm.host import quietly, read_config, without_teachers
from dmae_mm.launch import set_epochs
from tests.toys.ade20k import write_ade20k
from tests.toys.checkpoints import golden_weights
from tests.toys.models import ROOT
from tests.toys.runs import LAUNCHER_VARIABLES, free_port

# What commands read and do not write; all else is copied.
LINKED = ('dmae_mm', 'tools', 'studies')
COPIED = ('docs', 'Makefile', 'README.md', 'CONTRIBUTING.md', 'LICENSE',
          'constraints.txt', 'setup.cfg', 'setup.py', 'pyproject.toml',
          'model-index.yml', '.ci')
# In the place of a ViT-B or ViT-L: as deep as a ViT-B, with as many heads.
TEACHER = dict(
    embed_dims=192, num_layers=12, num_heads=12, feedforward_channels=384)
TEACHER_FILE = 'weights/teacher.pth'
# In the place of any teacher of timm, DINOv2's first of all.
TIMM_TEACHER = 'vit_small_patch14_dinov2.lvd142m'
TIMM_FILE = 'weights/dinov2.safetensors'
# Starts as many processes as it is asked for, here and now.
SRUN = '''#!/usr/bin/env bash
export SLURM_JOB_ID=4242 SLURM_STEP_ID=0 SLURM_NTASKS SLURM_PROCID
export SLURM_NODELIST=here SLURM_JOB_NODELIST=here
while [[ $1 == -* ]]; do
    [[ $1 == --ntasks=* ]] && SLURM_NTASKS=${1#*=}
    shift
done
for ((SLURM_PROCID = 0; SLURM_PROCID < SLURM_NTASKS; SLURM_PROCID++)); do
    SLURM_LOCALID=$SLURM_PROCID "$@" &
done
status=0
for job in $(jobs -p); do wait "$job" || status=$?; done
exit "$status"
'''


SCONTROL = '#!/usr/bin/env bash\necho 127.0.0.1\n'  # the only host
LIMIT = 600  # of a command, in seconds
ENVIRONMENT = dict(
    CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1')
# Its processes are copies of one that has imported this module, and with it
# PyTorch, mmpretrain and dmae_mm: half the time of a command.
FORKS = multiprocessing.get_context('forkserver')
FORKS.set_forkserver_preload([__name__])


def shrink_teacher(teacher: dict) -> None:
    """A narrow one of the same kind, from a file of random weights."""
    if teacher.type == 'TimmTeacher':
        teacher.update(
            model_name=TIMM_TEACHER, pretrained=False, checkpoint=TIMM_FILE)
    elif teacher.type in ('MMPretrainTeacher', 'MAETeacher'):
        teacher.backbone.arch = TEACHER
        teacher.checkpoint = TEACHER_FILE
    elif teacher.type == 'ClassifierTeacher':
        teacher.model.backbone.arch = TEACHER
        teacher.model.head.in_channels = TEACHER['embed_dims']
        teacher.update(checkpoint=None, allow_random=True)


def toy_edition(cfg: Config) -> None:
    """One epoch of a few images, taught by a narrow teacher."""
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if name in cfg and 'digits' not in cfg[name].dataset.data_root:
            cfg[name].update(
                batch_size=2, num_workers=0, persistent_workers=False)
            dataset = cfg[name].dataset
            if dataset.type == 'ImageNet':  # which wants 1000 classes
                dataset.update(
                    type='CustomDataset', data_prefix=dataset.pop('split'))
    if 'max_epochs' in cfg.train_cfg:
        set_epochs(cfg, 1)
    if cfg.get('param_scheduler') and cfg.param_scheduler[0].get('end', 1) < 1:
        # A warm-up of less than an iteration, which tools/train.py leaves
        # out, and mmpretrain's own script does not.
        cfg.param_scheduler = cfg.param_scheduler[1:]
        cfg.param_scheduler[0].update(begin=0, T_max=1)
    cfg.train_cfg.pop('val_interval', None)
    # Exporting takes longer than all else of these runs. Those of
    # tools/distill.py, whose config is not of these, leave a student.
    cfg.custom_hooks = [
        hook for hook in cfg.custom_hooks if hook.type != 'StudentFileHook'
    ]
    cfg.default_hooks.logger = dict(type='LoggerHook', interval=1)
    model = cfg.model
    if (model.get('neck') or {}).get('type') == 'MAEPretrainDecoder':
        model.neck.update(decoder_depth=1, decoder_embed_dim=64)
    for teacher in (model.get('teacher'), *(model.get('teachers') or {})):
        if teacher:
            shrink_teacher(teacher)


def write_photographs(folder: Path, classes: int, images: int) -> None:
    """Parts of photographs, as many in each of the folders n0, n1, ..."""
    data = Path(skimage.__file__).parent / 'data'
    photos = [
        Image.open(data / name).convert('RGB')
        for name in ('astronaut.png', 'coffee.png', 'chelsea.png')
    ] + [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for label in range(classes):
        (folder / f'n{label}').mkdir(parents=True)
        for index in range(images):
            photo = photos[(label + index) % len(photos)]
            left = 20 * index
            photo.crop((left, 0, left + 260, 240)).save(
                folder / f'n{label}' / f'{index}.JPEG')


def run_tool(folder: Path, arguments: List[str], log: Path) -> None:
    """One of tools/ in a process that has imported all that takes long."""
    os.chdir(folder)
    os.environ.update(ENVIRONMENT)
    with open(log, 'w') as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = arguments
    sys.path[0] = os.path.dirname(arguments[0])
    runpy.run_path(arguments[0], run_name='__main__')


class Sandbox:
    """Folders in which commands run.

    Args:
        root (Path): A new folder for what all of them share.
    """

    def __init__(self, root: Path) -> None:
        self.template = root / 'template'
        self.shared = root / 'shared'
        self.template.mkdir(parents=True)
        self.shared.mkdir()
        self.made: Dict[str, Path] = {}
        for name in LINKED:
            (self.template / name).symlink_to(ROOT / name)
        for name in COPIED:
            path = ROOT / name
            copy = shutil.copytree if path.is_dir() else shutil.copy
            copy(path, self.template / name)
        for path in (ROOT / 'configs').rglob('*.*'):
            target = self.template / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        for split in ('train', 'val'):
            write_photographs(self.template / 'data/imagenet' / split, 2, 2)
        for split in ('train', 'test'):
            write_photographs(self.template / 'data/labelled' / split, 2, 4)
        (self.template / 'data/photos').mkdir()
        for path in (self.template / 'data/imagenet').rglob('*.JPEG'):
            name = '_'.join((*path.parts[-3:-1], path.stem))
            shutil.copy(path, self.template / f'data/photos/{name}.jpg')
        write_ade20k(self.template / 'data/ade/ADEChallengeData2016')
        (self.template / 'bin').mkdir()
        for name, text in (('srun', SRUN), ('scontrol', SCONTROL)):
            (self.template / 'bin' / name).write_text(text)
            (self.template / 'bin' / name).chmod(0o755)
        self.weights()

    def weights(self) -> None:
        """The files in the place of downloads."""
        (self.template / 'weights').mkdir()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            vit = MODELS.build(dict(type='MAEViT', arch=TEACHER))
            dinov2 = timm.create_model(TIMM_TEACHER, num_classes=0)
            vit_s = timm.create_model('vit_small_patch16_224')
        weights = {
            f'backbone.{name}': tensor
            for name, tensor in vit.state_dict().items()
        }
        torch.save(dict(state_dict=weights), self.template / TEACHER_FILE)
        save_file(dinov2.state_dict(), self.template / TIMM_FILE)
        save_file(vit_s.state_dict(),
                  self.template / 'weights/vit-s.safetensors')
        torch.save(
            dict(model=golden_weights('teacher')),
            self.template / 'weights/fair_mae.pth')
        shutil.copytree(
            ROOT / 'tests/data/hugging_face/dinov2',
            self.template / 'weights/hugging_face')

    def folder(self, path: Path) -> Path:
        """A copy of all that for one command."""
        shutil.copytree(
            self.template, path, symlinks=True, dirs_exist_ok=True)
        return path

    def shrink(self, folder: Path, name: str) -> None:
        """Write a toy edition in the place of a config, once."""
        path = folder / name
        if path.read_text() == (ROOT / name).read_text():
            self.toy(name).dump(path)

    def toy(self, name: str) -> Config:
        """The toy edition of a config of the checkout."""
        cfg = read_config(str(ROOT / name))
        if '/segmentation/' in name:
            from tests.toys import needs_mmseg  # noqa: F401
            from tests.toys.segmentation_runs import shrink_run
            shrink_run(cfg, Path(), 2)
            cfg.pop('work_dir')
        else:
            toy_edition(cfg)
        return cfg

    def once(self, key: str, make: Callable[[Path], None]) -> Path:
        """A file or folder that commands share, made when one needs it."""
        if key not in self.made:
            path = self.shared / key
            path.parent.mkdir(parents=True, exist_ok=True)
            make(path)
            self.made[key] = path
        return self.made[key]

    def checkpoint(self, config: str) -> Path:
        """What a training with a config leaves, untrained."""

        def make(path: Path) -> None:
            model = without_teachers(self.toy(config).model)
            with quietly(), torch.random.fork_rng(), \
                    DefaultScope.overwrite_default_scope('mmpretrain'):
                torch.manual_seed(0)
                weights = MODELS.build(model).state_dict()
            torch.save(dict(state_dict=weights, meta={}), path)

        return self.once(f'{Path(config).stem}.pth', make)

    def provide(self, folder: Path, text: str) -> None:
        """Put in place what a command names: configs and checkpoints."""
        names = set(re.findall(r'configs/[\w/-]+/[\w.-]+\.py', text))
        for name in names:
            if (ROOT / name).is_file():
                self.shrink(folder, name)
        if 'digits' in text:
            for name, path in (
                    ('teacher_mae', 'teacher/epoch_60.pth'),
                    ('student_dmae', 'dmae/epoch_20.pth')):
                target = folder / 'work_dirs/quickstart/seed0' / path
                target.parent.mkdir(parents=True)
                target.symlink_to(
                    self.checkpoint(f'configs/digits/vit-{name}_digits.py'))
        if 'my_config.py' in text:
            torch.save(VisionTransformer(
                image_size=224, patch_size=16, num_layers=12, num_heads=12,
                hidden_dim=768, mlp_dim=3072).state_dict(),
                       folder / 'vit_b_16-c867db91.pth')
        for path, name in re.findall(
                r'(work_dirs/([\w.-]+)/epoch_100\.pth)', text):
            config, = (ROOT / 'configs').rglob(f'{name}.py')
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                target.symlink_to(
                    self.checkpoint(str(config.relative_to(ROOT))))

    def run(self, folder: Path, lines: str) -> str:
        """Run bash, and return what it printed.

        Args:
            folder (Path): Where.
            lines (str): A plain call of one of tools/ on a line of its own
                is made without bash, in a process of FORKS.
        """
        said, rest = '', []
        for line in lines.splitlines():
            plain = re.fullmatch(r'python (tools/[\w/]+\.py) ([^$|&;<>*]*)',
                                 line)
            if plain and not rest:
                arguments = [plain[1], *shlex.split(plain[2])]
                log = folder / 'log.txt'
                process = FORKS.Process(
                    target=run_tool, args=(folder, arguments, log))
                process.start()
                process.join(LIMIT)
                process.kill()
                process.join()
                status, output = process.exitcode, log.read_text()
                assert status == 0, f'{line}\n{output[-6000:]}'
                said += output
            else:
                rest.append(line)
        if rest:
            said += self.bash(folder, '\n'.join(rest))
        return said

    @staticmethod
    def bash(folder: Path, lines: str) -> str:
        inherited = {
            name: value
            for name, value in {**os.environ, **ENVIRONMENT}.items()
            if not LAUNCHER_VARIABLES.fullmatch(name)
        }
        path = (str(folder / 'bin'), str(Path(sys.executable).parent),
                os.environ['PATH'])
        result = subprocess.run(
            ['bash', '-euo', 'pipefail', '-c', lines],
            cwd=folder,
            env=dict(
                inherited,
                PATH=os.pathsep.join(path),
                PYTHONPATH=str(folder),
                PORT=free_port()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMIT,
            text=True)
        assert result.returncode == 0, f'{lines}\n{result.stdout[-6000:]}'
        return result.stdout
