"""docs/recipes.md against the configs, the tool and the training script."""
import re
import runpy
import shlex

import pytest
from mmengine.config import Config, DictAction

from tests.configs.recipes import ALL, CONFIGS
from tests.conftest import ROOT

PAGE = (ROOT / 'docs' / 'recipes.md').read_text()
PATHS = {name.split('/')[1].removesuffix('_in1k.py'): name for name in ALL}


def rows() -> dict:
    """Config -> its other cells, of all tables of the page."""
    tables = {}
    for line in PAGE.splitlines():
        if line.startswith('| `'):
            name, *cells = map(str.strip, line.strip('|').split('|'))
            assert name not in tables
            tables[name.strip('`')] = cells
    return tables


def commands() -> list:
    """The commands of the page, their lines joined and split into words."""
    blocks = re.findall(r'```bash\n(.*?)```', PAGE, re.DOTALL)
    lines = ''.join(blocks).replace('\\\n', ' ').splitlines()
    return [shlex.split(line) for line in lines if not line.startswith('#')]


def test_all_recipes_have_a_row():
    assert sorted(rows()) == sorted(PATHS)


def test_tables_stand_under_their_folder():
    for section in PAGE.split('\n## ')[1:]:
        folder = re.search(r'`configs/(\w+)`', section.splitlines()[0])
        for name in re.findall(r'^\| `([^`]+)`', section, re.MULTILINE):
            assert PATHS[name].split('/')[0] == folder[1]


# One of each kind, and of these the fastest to count.
@pytest.mark.parametrize('name', [
    'vit-b_dmae-mask98', 'hivit-t_dmae', 'vit-t_dmae-400e', 'vit-t_mae',
    'vit-t_soft-logits', 'vit-t_linear', 'vit-t_finetune-10pct'
])
def test_costs_are_what_the_tool_says(name):
    script = runpy.run_path(str(ROOT / 'studies/recipe_costs.py'))
    cfg = Config.fromfile(CONFIGS / PATHS[name])
    gflop = script['count_gflop'](cfg)['total']
    hours = script['gpu_hours'](cfg, gflop, tflops=100)
    assert rows()[name][-2:] == [f'{gflop:.1f}', script['format_hours'](hours)]


def test_published_numbers_are_those_of_the_model_index():
    metafiles = ''.join(
        path.read_text() for path in CONFIGS.glob('*/metafile.yml'))
    listed = {
        name.removesuffix('_in1k'): number
        for name, number in re.findall(
            r'Name: (\S+)\n(?:(?!  - Name).*\n)*?'
            r' +Published Top 1 Accuracy: (\S+)', metafiles)
    }
    section = PAGE.split('\n## ')[1]
    assert '| published |' in section
    on_page = {
        name: rows()[name][1].split(' ')[0]
        for name in re.findall(r'^\| `([^`]+)`', section, re.MULTILINE)
        if rows()[name][1]
    }
    assert on_page == listed
    assert len(listed) == 4


def test_every_file_of_the_page_exists():
    names = {
        word
        for command in commands() for word in command
        if re.match(r'(configs|tools)/', word)
    }
    names |= set(re.findall(r'`((?:configs|tools)/[a-z_/.]+)`', PAGE))
    assert len(names) > 10
    for name in names:
        assert (ROOT / name).exists(), name


def images_of_a_step(command: list) -> int:
    """GPUs x images x accumulated batches, as the command line sets them."""
    variables = dict(word.split('=') for word in command
                     if re.fullmatch(r'[A-Z_]+=\S+', word))
    path, = (word for word in command if word.startswith('configs/'))
    after = command[command.index(path) + 1:]
    gpus = 1
    if 'tools/dist_train.sh' in command:
        gpus = int(after[0]) * int(variables.get('NNODES', 1))
    elif 'tools/slurm_train.sh' in command:
        gpus = int(variables['GPUS'])
    cfg = Config.fromfile(ROOT / path)
    if '--cfg-options' in after:
        options = after[after.index('--cfg-options') + 1:]
        cfg.merge_from_dict({
            key: DictAction._parse_int_float_bool(value)
            for key, value in (option.split('=', 1) for option in options)
        })
    return (gpus * cfg.train_dataloader.batch_size *
            cfg.optim_wrapper.get('accumulative_counts', 1))


def test_commands_train_with_the_images_of_the_recipe():
    sizes = dict(dmae=4096, finetune=1024, linear=16384)
    seen = []
    for command in commands():
        # Which any number suits.
        if '--auto-scale-lr' in command:
            continue
        if any('train.' in word for word in command):
            path, = (word for word in command if word.startswith('configs/'))
            task = re.search(r'_(\w+)(?:-1pct)?_in1k', path)[1]
            size = 256 if '1pct' in path else sizes[task]
            assert images_of_a_step(command) == size, command
            seen.append(size)
    assert seen == [4096] * 4 + [1024] * 2 + [16384] * 2 + [256]


def test_batches_of_an_epoch():
    """What the page says of accumulation at the end of an epoch."""
    for gpus, counts, batches, pending in ((8, 4, 1252, 0), (16, 2, 626, 0),
                                           (1, 32, 10_010, 26)):
        images = -(-1_281_167 // gpus)  # of a process, rounded up
        assert -(-images // 128) == batches
        assert batches % counts == pending
        assert f'{batches:,}' in PAGE or f'{batches}' in PAGE
