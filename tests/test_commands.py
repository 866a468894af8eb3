"""Each command of README, CONTRIBUTING and docs works.

The slow tests run them, in a copy of the checkout with toy editions of the
configs (tests/toys/command_sandbox.py). The tables here say what stands for a
placeholder, what has to be there first, and what is not run, and why. A
command that a page is given needs an entry only if it has a placeholder of its
own, needs something or takes too long.
"""
import argparse
import ast
import re
import runpy
import shlex
import shutil
import sys

import pytest
import torch
from mmpretrain.registry import MODELS

from dmae_mm.host import read_config
from tests.toys.command_sandbox import TIMM_FILE, TIMM_TEACHER, Sandbox
from tests.toys.models import ROOT
from tests.toys.page_commands import (PAGES, block_commands, fences,
                                      inline_commands, table_commands)

STUDENT = 'work_dirs/vit-s_dmae_in1k/epoch_100.pth'
TEACHER = f'{TIMM_TEACHER}={TIMM_FILE}'
# Where (a pattern in 'PAGE: COMMAND'), what (a pattern), and what stands for
# it. All tables begin with such a pattern.
REPLACED = [
    ('tools/distill.py', r'--teacher \S+', f'--teacher {TEACHER}'),
    ('tools/distill.py', r'\bSTUDENT\b', 'vit_tiny_patch16_224'),
    ('tools/distill.py', r'$', ' --epochs 1'),
    # What the run that goes on has been trained with.
    ('--resume', r'/path/to/images', 'data/imagenet/train'),
    # Fewer images, as the teacher's are larger than its student's.
    ('tools/distill.py data/digits', 'data/digits/train', 'data/photos'),
    ('tools/distill.py data/digits', 's data/digits', 's data/labelled'),
    ('', r'/path/to/images', 'data/photos'),
    ('', r'\bIMAGES\b', 'data/photos'),
    ('', r'\bLABELLED\b', 'data/labelled'),
    ('tools/evaluate.py', r'--beside \S+', f'--beside {TEACHER}'),
    ('', r'\bTEACHER\.pth', 'weights/teacher.pth'),
    ('', r'/path/to/dinov2.safetensors', TIMM_FILE),
    ('', r'/path/to/dinov2-base', 'weights/hugging_face'),
    ('report.py', 'WORK_DIR WORK_DIR',
     'work_dirs/vit-s_dmae_in1k work_dirs/vit-s_mae_in1k'),
    # Automatic mixed precision needs a GPU.
    ('mim train mmpretrain', 'CONFIG$',
     'CONFIG --cfg-options optim_wrapper.type=OptimWrapper'),
    ('README.md: python tools/check_transfer.py', 'CONFIG',
     'configs/segmentation/vit-s_upernet_ade20k-512x512.py'),
    ('make_subset.py', '--percent 1$', '--percent 50'),
    ('--train-list', '--knn', '--knn -k 1'),
    ('--epochs 20', '--epochs 20', '--epochs 1'),
    ('TIMM.safetensors', 'TIMM.safetensors', 'weights/vit-s.safetensors'),
    ('SRC.pth', 'SRC.pth', 'weights/fair_mae.pth'),
    # `mim` starts several processes with GPUs alone.
    ('', '--gpus [18](?: --launcher pytorch)?', '--gpus 0'),
    ('', r'\bCONFIG\b', 'configs/dmae/vit-s_dmae_in1k.py'),
    ('', r'\bCHECKPOINT\b', STUDENT),
    # As many processes as there are cores here, not as GPUs there.
    ('dist_train.sh', r'(?<=\.py )[48]\b', '2'),
    ('slurm_train.sh', r'GPUS=\d+', 'GPUS=2'),
    ('slurm_train.sh', 'PARTITION JOB', 'gpu dmae'),
    ('slurm_train.sh', 'WORK_DIR', 'work_dirs/slurm'),
    ('my_teacher.py', '--check',
     '--check --cfg-options model.teacher.pretrained=False '
     f'model.teacher.model_name={TIMM_TEACHER} '
     f'model.teacher.checkpoint={TIMM_FILE}'),
]
TRAIN = 'python tools/train.py configs/dmae/vit-s_dmae_in1k.py'
EXPORT = ('python tools/model_converters/export.py '
          f'configs/dmae/vit-s_dmae_in1k.py {STUDENT} ')
# What has to be done first, in bash.
BEFORE = [
    ('evaluate.py student.safetensors',
     f'{EXPORT} student.safetensors --to timm --num-classes 0'),
    ('--resume', TRAIN),
    ('tools/analysis/report.py', TRAIN),
    ('tools/analysis/report.py',
     'python tools/train.py configs/baselines/vit-s_mae_in1k.py'),
    ('replay_step.py',
     f'{TRAIN} --cfg-options optim_wrapper.optimizer.lr=1e38 '
     'optim_wrapper.accumulative_counts=1 || true; '
     'mv work_dirs/vit-s_dmae_in1k/nonfinite_iter_*.pth '
     'work_dirs/vit-s_dmae_in1k/nonfinite_iter_6_rank_0.pth'),
    ('1pct', 'python tools/make_subset.py data/imagenet/train '
     'data/imagenet/train_1pct.txt --percent 50'),
    ('shards/vit-s', 'python tools/dataset_converters/make_shards.py '
     'data/imagenet/train data/imagenet_shards/train'),
    ('digits', 'python -c "from dmae_mm.evaluation.digits import '
     'write_digits; write_digits()"'),
    ('work_dirs/distill/NAME',
     'python tools/distill.py data/photos --student '
     f'vit_tiny_patch16_224 --teacher {TEACHER} --epochs 1 '
     '--out work_dirs/distill/NAME'),
    (r'python tools/check_transfer.py \$STOCK',
     'python tools/model_converters/export.py configs/dmae/vit-b_dmae_in1k.py '
     'work_dirs/vit-b_dmae_in1k/epoch_100.pth vit-b_mmseg.pth --to mmseg'),
]
# What a page promises: a file, as a pattern of its name, or '*: ' and that
# of what is printed.
PROMISED = [
    ('tools/train.py', 'work_dirs/**/*_[12].pth'),
    ('_train.sh', 'work_dirs/*/epoch_1.pth'),
    ('mim train', 'work_dirs/*/*_[12].pth'),
    ('--check(?!point)', '*: Everything works: the run can be started.'),
    ('tools/check_transfer.py', r'*: All \d+ backbone tensors arrived'),
    ('transfer.md: python tools/check_transfer.py configs/segmentation/vit',
     r'*: All 148 backbone tensors arrived \(1 resized\)'),
    ('tools/distill.py', 'work_dirs/distill/*/student.safetensors'),
    ('tools/distill.py', 'work_dirs/distill/*/report.html'),
    ('--to transformers onnx', 'work_dirs/distill/*/*onnx'),
    ('--labels', 'work_dirs/distill/*/evaluation.json'),
    ('tools/evaluate.py', '*: kNN.*(logistic regression|linear)'),
    ('report.py', '**/report.html'),
    ('--out reconstruction.png', 'reconstruction.png'),
    ('layer_similarity.py', '**/*.json'),
    (r'export.py.* student\.safetensors', 'student.safetensors'),
    (r'export.py.*\.pth --to', '*.pth'),
    (r'export.py.* --to transformers', 'student_transformers/config.json'),
    (r'export.py.* --to onnx', 'student.onnx'),
    (r'export.py.* --to torch-export', 'student.pt2'),
    ('mae_to_mmpretrain.py', 'DST.pth'),
    ('make_shards.py', 'data/imagenet_shards/train/index.json'),
    ('make_subset.py', 'data/imagenet/train_1pct.txt'),
    ('replay_step.py', '*: The losses are the same as in the run'),
    ('ReconstructionVisualizationHook', 'work_dirs/**/*.png'),
    ('OnlineProbeHook', '*: (?i)knn'),
]
# Commands that are not run: the test that does it otherwise, or the reason.
EXEMPT = {
    'source .venv/bin/activate': 'the script is Python\'s own',
    'pip install': 'tests/test_packaging.py',
    'apt-get install': 'it changes the system',
    'python tools/install_mmcv_ops.py': 'tests/tools/test_install_mmcv_ops.py',
    'NNODES': 'tests/tools/test_launch_nodes.py',
    'python studies/benchmarks/step_time.py':
    'tests/studies/benchmarks/test_step_time.py',
    'studies/benchmarks/data_loading.py':
    'tests/studies/benchmarks/test_data_loading.py',
    'bash studies/benchmarks/gpu.sh': 'it refuses to start without a GPU',
    'python studies/kill_test.py': 'tests/studies/test_kill_test.py',
    'python -m studies.student_sweep': 'tests/studies/test_student_sweep.py',
    'python studies/students_study.py': 'tests/studies/test_students_study.py',
    'vit-l_dmae-fsdp_in1k.py': 'tests/engine/test_fully_sharded_strategy.py',
    'python studies/study.py': 'tests/studies/test_study.py',
    'python studies/recipe_costs.py': 'tests/studies/test_recipe_costs.py',
    'python studies/communication_costs.py':
    'tests/studies/test_communication_costs.py',
    **{
        f'python studies/benchmarks/{name}.py':
        f'tests/studies/benchmarks/test_{name}.py'
        for name in ('end_to_end', 'memory', 'scaling', 'teacher_cost')
    },
    **{
        f'python examples/{name}.py': f'tests/examples/test_{name}.py'
        for name in ('a_row_of_the_paper', 'dinov2_to_mobilenet',
                     'student_into_mmdet')
    },
    'python -m pytest': 'a part of `make test`',
    'work_dirs/faster-rcnn': 'tests/detection/test_stock_detectors.py',
    r'python tools/train.py \$STOCK':
    'tests/segmentation/test_stock_config.py',
}
# Blocks of Python that are files: page, how the text begins, where it lies.
# Those of one path are one file. Configs are built, programs are run.
FILES = [
    ('README.md', 'custom_imports', 'configs/one_screen.py'),
    ('docs/data.md', 'from pathlib', 'program.py'),
    ('docs/distill.md', 'from dmae_mm import distill', 'program.py'),
    ('docs/export.md', 'timm.create_model', 'program.py'),
    ('docs/export.md', 'import dmae_mm', 'program_2.py'),
    ('docs/export.md', 'import onnxruntime', 'program_3.py'),
    ('docs/export.md', 'import torch', 'program_4.py'),
    ('docs/fine-tune.md', '# my_finetune.py', 'my_finetune.py'),
    ('docs/fine-tuned-teacher.md', '# my_logits.py', 'my_logits.py'),
    ('docs/own-parts.md', '# my_config.py', 'my_config.py'),
    ('docs/own-parts.md', '', 'my_parts.py'),
    ('docs/recipes.md', 'from mmengine', 'program.py'),
    ('docs/safety.md', 'import dmae_mm', 'program.py'),
    ('docs/safety.md', 'checkpoint = torch.load', 'program_2.py'),
    ('docs/scaling.md', '_base_', 'configs/scaling/mine.py'),
    ('docs/shards.md', '_base_', 'configs/shards/mine.py'),
    ('docs/students.md', "_base_ = [", 'configs/students/mine.py'),
    ('docs/students.md', "_base_ = './vit-t", 'configs/dmae/mine.py'),
    ('docs/teachers.md', '_base_', 'configs/dmae/mine.py'),
    ('docs/train.md', '# my_teacher.py', 'my_teacher.py'),
    ('docs/train.md', 'import dmae_mm', 'program.py'),
]
# What stands for a part of a program; what comes first and after it, in bash.
PROGRAMS = {
    'docs/data.md program.py': ([], (
        'mkdir photos; cp data/imagenet/train/n0/0.JPEG photos/a.jpg; '
        'echo none > photos/b.jpg'), 'test -s photos_512/a.jpg'),
    'docs/distill.md program.py': ([
        ("'IMAGES'", "'data/photos'"),
        ("'vit_base_patch14_dinov2.lvd142m'", f"'{TEACHER}'"),
        (r"'vit_tiny_patch16_224'\)", "'vit_tiny_patch16_224', epochs=1)"),
    ], '', 'ls work_dirs/distill/*/student.safetensors'),
    'docs/export.md program.py': (
        [('^', 'import timm\n')],
        'cp weights/vit-s.safetensors student.safetensors', ''),
    'docs/export.md program_2.py': (
        [('# images', 'import torch\nimages = torch.rand(2, 3, 224, 224)\n#'),
         ('$', '\nassert tokens.shape == (2, 197, 384)\n')],
        f': {STUDENT} configs/dmae/vit-s_dmae_in1k.py', ''),
    'docs/export.md program_3.py': (
        [(r'images=images\)\)',
          'images=numpy.zeros((2, 3, 224, 224), numpy.float32)))\n'
          'assert pooled.shape == (2, 384)\n'), ('^', 'import numpy\n')],
        f'{EXPORT} student.onnx --to onnx', ''),
    'docs/export.md program_4.py': (
        [(r'model\(images\)', 'model(torch.zeros(2, 3, 224, 224))\n'
          "assert output['pooled'].shape == (2, 384)\n")],
        f'{EXPORT} student.pt2 --to torch-export', ''),
    'docs/recipes.md program.py': ([], '', 'test -s vit-s_dmae_20-epochs.py'),
    'docs/safety.md program.py': ([], '', ''),
    'docs/safety.md program_2.py': (
        [('^', 'import torch\n')],
        'python -c "import torch; torch.save(dict(state_dict={}), \'x.pth\')"',
        'test -s clean.pth'),
    'docs/train.md program.py': ([
        ('$', "\nassert 'vit-s_dmae_in1k' in list_models('*dmae*')\n")
    ], '', ''),
}
# Blocks of Python that are not run, parts of a config first of all: page, and
# how the text begins.
FRAGMENTS = [
    # transformers cannot be installed beside mmpretrain and pycocotools.
    ('docs/export.md', 'from transformers'),
    ('docs/data.md', 'model = dict('),
    ('docs/survive.md', 'train_cfg = dict('),
]


def page_name(page) -> str:
    return page.relative_to(ROOT).as_posix()


def entry_of(fence):
    """That of FILES or FRAGMENTS."""
    return next((entry for entry in (*FRAGMENTS, *FILES)
                 if entry[0] == page_name(fence.page)
                 and fence.text.startswith(entry[1])), None)


def files_of(page):
    """The files of a page, by path."""
    files = {}
    for fence in fences(page, 'python'):
        entry = entry_of(fence)
        if entry in FILES:
            path = entry[2]
            files[path] = files.get(path, '') + fence.text + '\n'
    return files


def write_files(page, folder) -> None:
    for path, text in files_of(page).items():
        (folder / path).write_text(text)


def found():
    """Each command, where it stands for the first time."""
    commands = {}
    for page in PAGES:
        for command in (*block_commands(page), *table_commands(page)):
            commands.setdefault((*command.settings, command.text), command)
    return list(commands.values())


def matches(entry: str, command) -> bool:
    return bool(re.search(
        entry, f'{page_name(command.page)}: {command.text}'))


def exempt(command):
    return next((entry for entry in EXEMPT if matches(entry, command)), None)


def in_toy_size(command) -> str:
    """The lines of bash that run a command."""
    if command.text.startswith('make '):
        return command.text.replace('make ', 'make -n ', 1)
    text = command.text
    for entry, pattern, replacement in REPLACED:
        if matches(entry, command):
            text = re.sub(pattern, replacement, text)
    first = [
        lines for entry, lines in BEFORE
        if matches(entry, command) and lines != text
    ]
    return '\n'.join([*first, *command.settings, text])


COMMANDS = found()
# Some are the same in toy size.
RUN = {}
for _command in COMMANDS:
    if not exempt(_command):
        RUN.setdefault(in_toy_size(_command), _command)


@pytest.fixture(scope='session')
def sandbox(tmp_path_factory):
    return Sandbox(tmp_path_factory.mktemp('commands'))


# Files of configs, and of programs.
CONFIGS, WHOLE_PROGRAMS = ([
    (page, path) for page in PAGES for path in files_of(page)
    if path.startswith('program') == program and path != 'my_parts.py'
] for program in (False, True))


def file_id(value) -> str:
    return value if isinstance(value, str) else page_name(value)


@pytest.fixture
def folder(sandbox, tmp_path):
    """A folder like a checkout; its checkpoints are large."""
    yield sandbox.folder(tmp_path / 'checkout')
    shutil.rmtree(tmp_path / 'checkout')


@pytest.mark.slow
@pytest.mark.parametrize(
    'lines', RUN, ids=[command.place for command in RUN.values()])
def test_a_command_runs(lines, sandbox, folder):
    sandbox.provide(folder, lines)
    if 'my_' in lines:
        write_files(RUN[lines].page, folder)
    said = sandbox.run(folder, lines)
    for entry, promised in PROMISED:
        if not matches(entry, RUN[lines]):
            continue
        if promised.startswith('*: '):
            assert re.search(promised[3:], said, re.DOTALL), promised + said
        elif '--check' not in lines:
            assert [*folder.glob(promised)], promised


@pytest.mark.slow
@pytest.mark.parametrize('page, path', WHOLE_PROGRAMS, ids=file_id)
def test_a_program_runs(page, path, sandbox, folder):
    parts, before, after = PROGRAMS[f'{page_name(page)} {path}']
    text = files_of(page)[path]
    for pattern, replacement in parts:
        assert re.search(pattern, text)
        text = re.sub(pattern, replacement, text, count=1)
    (folder / path).write_text(text)
    lines = '\n'.join(filter(None, (before, f'python {path}', after)))
    sandbox.provide(folder, lines)
    sandbox.run(folder, lines)


@pytest.mark.slow
@pytest.mark.parametrize('page, path', CONFIGS, ids=file_id)
def test_a_config_is_built(page, path, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    write_files(page, folder)
    cfg = read_config(path)
    # Without memory for tensors; those ResNets read one as they are built.
    with torch.device('cpu' if path == 'my_logits.py' else 'meta'):
        MODELS.build(cfg.model)


def test_no_entry_is_left_over():
    texts = [f'{page_name(c.page)}: {c.text}' for c in COMMANDS]
    for entry in (*EXEMPT, *(entry for entry, *_ in (*REPLACED, *BEFORE,
                                                   *PROMISED))):
        assert any(re.search(entry, text) for text in texts), entry
    for pattern in (pattern for _, pattern, _ in REPLACED):
        assert any(re.search(pattern, text) for text in texts), pattern
    for entry, reason in EXEMPT.items():
        if reason.startswith('tests/'):
            what = re.split(r'[/.\s]', re.sub(r'\.(py|sh)\b.*', '', entry))[-1]
            assert what in (ROOT / reason).read_text(), entry


def test_each_block_of_python_is_a_file_or_a_fragment():
    used = set()
    for page in PAGES:
        for fence in fences(page, 'python'):
            ast.parse(fence.text, fence.place)
            assert entry_of(fence), fence.place
            used.add(entry_of(fence))
    assert used == {*FILES, *FRAGMENTS}
    assert {*PROGRAMS} == {
        f'{page_name(page)} {path}' for page, path in WHOLE_PROGRAMS}


class Parsed(Exception):
    """A tool has read its command line."""


def calls():
    """Each call of a script, in blocks and in the text of the pages."""
    lines = set()
    for page in PAGES:
        for command in (*block_commands(page), *inline_commands(page)):
            text = in_toy_size(command).splitlines()[-1]
            match = re.search(r'python ((?:examples|studies|tools)/.*)', text)
            if match:
                lines.add((match[1], command.place))
    return sorted(lines)


def test_each_option_is_one_of_its_tool(monkeypatch):
    """And each config is there."""
    parse_known = argparse.ArgumentParser.parse_known_args

    def parse(self, args=None, namespace=None, known=False):
        _, unknown = parse_known(self, args, namespace)
        assert not unknown or 'test.py' in sys.argv[0], unknown
        raise Parsed

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', parse)
    monkeypatch.setattr(argparse.ArgumentParser, 'parse_known_args', parse)
    for line, place in calls():
        arguments = shlex.split(line)
        monkeypatch.setattr(sys, 'argv', arguments)
        with pytest.raises(Parsed):
            runpy.run_path(arguments[0], run_name='__main__')
        for name in re.findall(r'\bconfigs/[\w/-]+\.py', line):
            assert (ROOT / name).is_file(), (place, name)
