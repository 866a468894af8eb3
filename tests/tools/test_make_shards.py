"""tools/dataset_converters/make_shards.py: whole shards, or none."""
import os
import runpy
import shutil
import signal
import sys
import tarfile
from collections import namedtuple

import pytest
from tqdm import tqdm

from dmae_mm.datasets import ShardDataset
from dmae_mm.datasets.shards import write_shards as module
from dmae_mm.datasets.shards.write_shards import write_shards
from tests.toys.models import ROOT
from tests.toys.shard_files import contents_of, write_files

pytest.importorskip('webdataset', reason='the extra "shards" is not installed')
SCRIPT = runpy.run_path(
    str(ROOT / 'tools' / 'dataset_converters' / 'make_shards.py'))
main = SCRIPT['main']


@pytest.fixture
def images(tmp_path):
    contents = write_files(tmp_path / 'images')
    return str(tmp_path / 'images'), contents


def files_of(folder):
    return {
        os.path.relpath(path, folder): path.read_bytes()
        for path in folder.rglob('*') if path.is_file()
    }


def test_command_line(images, tmp_path, capsys, monkeypatch):
    root, contents = images
    monkeypatch.setitem(
        main.__globals__, 'tqdm',
        lambda **options: tqdm(**dict(options, mininterval=0)))
    main([root, str(tmp_path / 'out'), '--with-label', '--shard-mb', '0.008'])
    printed, progress = capsys.readouterr()
    dataset = ShardDataset(str(tmp_path / 'out'), with_label=True)
    assert contents_of(dataset) == contents
    sizes = dataset.shard_sizes
    size = f'{sum(map(len, contents.values())) / 1000:.1f}k'
    assert f'{size}/{size}' in progress and '50 of 50 images' in progress
    assert (f'out: 50 images in {len(sizes)} shards of {min(sizes)} to '
            f'{max(sizes)}, 2 classes; read again and compared.') in printed
    # Every shard holds images of both classes: they were dealt at random.
    labels = dataset.get_gt_labels()
    ends = sizes.cumsum().tolist()
    for begin, end in zip([0, *ends], ends[:-1]):
        assert set(labels[begin:end]) == {0, 1}
    assert sorted(os.listdir(tmp_path)) == ['images', 'out']


def test_unpacking_restores_the_folder(images, tmp_path):
    root, contents = images
    write_shards(root, str(tmp_path / 'out'), shard_bytes=8000)
    for shard in sorted((tmp_path / 'out').glob('*.tar')):
        with tarfile.open(shard) as file:
            file.extractall(tmp_path / 'again', filter='data')
    assert files_of(tmp_path / 'again') == contents


def test_the_same_folder_gives_the_same_shards(images, tmp_path):
    root, _ = images
    for name in ('one', 'two/'):
        write_shards(root, str(tmp_path / name), shard_bytes=8000)
    assert files_of(tmp_path / 'one') == files_of(tmp_path / 'two')


def test_a_shard_is_closed_when_it_is_full(images, tmp_path):
    root, contents = images
    folder = write_shards(root, str(tmp_path / 'out'), shard_bytes=8000)
    sizes = [0] * len(folder.shard_sizes)
    for sample in folder.samples:
        sizes[sample['shard']] += int(sample['size'])
    assert sum(sizes) == sum(map(len, contents.values()))
    assert all(8000 <= size < 8000 + 2000 for size in sizes[:-1])


class TestRefusals:
    """Nothing that exists is touched; nothing half is left."""

    def refused(self, message, *args):
        with pytest.raises(SystemExit, match=message):
            main(list(map(str, args)))

    def test_what_exists(self, images, tmp_path):
        (tmp_path / 'out').mkdir()
        (tmp_path / 'out' / 'mine').write_text('precious')
        self.refused("out' exists. Choose another", images[0],
                     tmp_path / 'out')
        assert files_of(tmp_path / 'out') == {'mine': b'precious'}

    def test_what_a_killed_run_left(self, images, tmp_path):
        (tmp_path / '.writing-x' / 'out').mkdir(parents=True)
        self.refused("out' exists: .* was killed.* remove .*/.writing-x'",
                     images[0], tmp_path / 'out')

    def test_no_images(self, tmp_path):
        (tmp_path / 'empty').mkdir()
        self.refused('no folder', tmp_path / 'not', tmp_path / 'out')
        self.refused('no images .*empty', tmp_path / 'empty',
                     tmp_path / 'out')
        assert os.listdir(tmp_path) == ['empty']

    def test_no_labels(self, images, tmp_path):
        self.refused('have no labels', f'{images[0]}/cat', tmp_path / 'out',
                     '--with-label')

    def test_no_size(self, images, tmp_path):
        self.refused('shard_bytes=0 is not positive', images[0],
                     tmp_path / 'out', '--shard-mb', 0)

    def test_no_room(self, images, tmp_path, monkeypatch):
        usage = namedtuple('usage', 'total used free')(9, 0, 9)
        monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
        self.refused('out needs [0-9,]+ bytes.* 9 bytes are free', images[0],
                     tmp_path / 'out')
        assert os.listdir(tmp_path) == ['images']

    def test_no_package(self, images, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, 'webdataset', None)
        self.refused(r'pip install "dmae_mm\[shards\]"', images[0],
                     tmp_path / 'out')

    def test_damage_while_writing(self, images, tmp_path, monkeypatch):
        check = module._check_shard

        def damage_then_check(path, written):
            with open(path, 'r+b') as file:
                file.seek(1030)
                file.write(b'damage')
            return check(path, written)

        monkeypatch.setattr(module, '_check_shard', damage_then_check)
        self.refused('000000.tar is damaged: the member', images[0],
                     tmp_path / 'out')
        assert os.listdir(tmp_path) == ['images']

    def test_interruption_from_the_keyboard(self, images, tmp_path):

        def interrupt(done, *numbers):
            if done == 20:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_shards(images[0], str(tmp_path / 'out'), report=interrupt)
        assert os.listdir(tmp_path) == ['images']


def test_a_kill_leaves_nothing_that_looks_whole(images, tmp_path):
    """The parent's modules are there after a fork: no second start."""
    out = tmp_path / 'out'
    pid = os.fork()
    if not pid:
        write_shards(
            images[0],
            str(out),
            shard_bytes=8000,
            report=lambda done, *numbers: done == 30 and os.kill(
                os.getpid(), signal.SIGKILL))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert not out.exists()
    unfinished, = tmp_path.glob('.writing-*/out')
    with pytest.raises(FileNotFoundError, match='There are no shards in'):
        ShardDataset(str(unfinished))


def test_help_needs_no_package():
    """And the script is found from anywhere: it puts its clone first."""
    text = SCRIPT['build_parser']().format_help()
    assert 'SRC' in text and '--with-label' in text
