"""docs/recipes.md against the configs, the tool and the training script."""
import re
import runpy
import shlex
from pathlib import Path

import pytest
from mmengine.config import Config, DictAction

from tests.toys.recipes import ALL, CONFIGS, ROWS
from tests.toys.models import ROOT

import recipes_page  # noqa: E402

PAGE = recipes_page.PAGE.read_text()
PATHS = {name.split('/')[1].removesuffix('_in1k.py'): name for name in ALL}


def commands() -> list:
    """The commands of the page, their lines joined and split into words."""
    blocks = re.findall(r'```bash\n(.*?)```', PAGE, re.DOTALL)
    lines = ''.join(blocks).replace('\\\n', ' ').splitlines()
    return [shlex.split(line) for line in lines if not line.startswith('#')]


def test_all_files_have_a_row_under_their_folder():
    found = []
    for section in PAGE.split('\n## ')[1:]:
        folder = re.search(r'`configs/(\w+)`', section.splitlines()[0])
        if folder:
            found += [
                f'{folder[1]}/{name}_in1k.py'
                for name in re.findall(r'^\| `([^`]+)`', section, re.MULTILINE)
            ]
    assert sorted(found) == ALL


# One of each kind, and of these the fastest to count.
@pytest.mark.parametrize('name', [
    'vit-b_dmae-mask98', 'hivit-t_dmae', 'vit-t_dmae-400e', 'vit-t_mae',
    'swin-t_dmae-simmim',
    'vit-t_soft-logits', 'vit-t_linear', 'vit-t_finetune-10pct'
])
def test_costs_are_what_the_tool_says(name):
    script = runpy.run_path(str(ROOT / 'studies/recipe_costs.py'))
    cells = list(ROWS[name].cells.values())[-3:]
    assert cells == script['cost_cells'](ROWS[name].read(), tflops=100)


def test_writing_the_columns_changes_nothing_else():
    """The page as the tool would write it, and one with other numbers."""
    assert recipes_page.replace_cells(
        PAGE, lambda row: list(row.cells.values())[-3:]) == PAGE
    page = recipes_page.replace_cells(PAGE, lambda row: ['1.0', '', '2.0'])
    assert list(
        recipes_page.read_page(page)['vit-b_dmae-pairs2'].cells.values()) == [
            '`vit-b_dmae-pairs2`', '`vit-b_dmae`',
            '`model.aligned_layers="[(0.5,0.5),(0.75,0.75)]"`',
            '`s5_t11`, `s8_t17`', '1.0', '', '2.0'
        ]


def test_costs_of_the_objectives_are_those_of_the_recipes():
    page = recipes_page.OBJECTIVES_PAGE.read_text()
    found = {
        name: cells[-2:]
        for name, *cells in (
            re.split(r' *\| *', line[2:-2])
            for line in page.splitlines() if line.startswith('| `'))
        if name.strip('`') in ROWS  # and no option
    }
    assert len(found) == 13
    for name, cells in found.items():
        row = ROWS[name.strip('`')].cells
        assert cells == [row['GFLOP/image'], row['teacher']], name


@pytest.mark.parametrize('row, message', [
    ('| `vit-t_dmae` |', "recipes.md has two rows 'vit-t_dmae'."),
    ('| `vit-x_dmae` |', "recipes.md: vit-x_dmae is made of 'vit-x_dmae', "),
])
def test_wrong_rows_are_refused(row, message):
    page = '| config |\n| --- |\n| `vit-t_dmae` |\n' + row
    with pytest.raises(ValueError, match=message):
        recipes_page.read_page(page)


def test_published_numbers_are_those_of_the_model_index():
    metafiles = ''.join(
        path.read_text() for path in CONFIGS.glob('*/metafile.yml'))
    listed = {
        name.removesuffix('_in1k'): number
        for name, number in re.findall(
            r'Name: (\S+)\n(?:(?!  - Name).*\n)*?'
            r' +Published Top 1 Accuracy: (\S+)', metafiles)
    }
    on_page = {
        name: row.cells['published'].split(' ')[0]
        for name, row in ROWS.items() if row.cells.get('published')
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
    assert seen == [4096] * 5 + [1024] * 2 + [16384] * 2 + [256]


def test_the_command_of_a_variation_is_that_of_its_row():
    command, = (words for words in commands() if '--work-dir' in words)
    name = command[command.index('--work-dir') + 1].removeprefix('work_dirs/')
    row = ROWS[name]
    assert command == [
        'bash', 'tools/dist_train.sh',
        str(Path(row.config).relative_to(ROOT)), '8', '--work-dir',
        f'work_dirs/{name}', '--cfg-options', *shlex.split(row.options)
    ]


def test_batches_of_an_epoch():
    """What the page says of accumulation at the end of an epoch."""
    for gpus, counts, batches, pending in ((8, 4, 1252, 0), (16, 2, 626, 0),
                                           (1, 32, 10_010, 26)):
        images = -(-1_281_167 // gpus)  # of a process, rounded up
        assert -(-images // 128) == batches
        assert batches % counts == pending
        assert f'{batches:,}' in PAGE or f'{batches}' in PAGE


def test_costs_of_students_are_those_of_their_recipes():
    page = recipes_page.STUDENTS_PAGE.read_text()
    found = recipes_page.read_page(page)
    assert len(found) > 10
    assert {name: row.cells['GFLOP/image'] for name, row in found.items()} == {
        name: ROWS[name].cells['GFLOP/image'] for name in found
    }
