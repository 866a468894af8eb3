"""tools/evaluate.py on a student that tools/train.py has trained."""
import functools
import json
import os
import runpy
import shutil
import sys
from pathlib import Path

import cv2
import pytest
import timm
import torch
from mmpretrain import get_model
from mmpretrain.models.selfsup import MAEViT
from mmpretrain.structures import DataSample

from dmae_mm.evaluation import (extract_features, knn_accuracy,
                              linear_probe_accuracy)
from tests.toys import timm_architectures as toys
from tests.toys.models import ROOT
from tests.toys.folders import write_classes
from tests.toys.runs import TRAIN, launch, write_toy_run

main = runpy.run_path(str(ROOT / 'tools' / 'evaluate.py'))['main']


@pytest.fixture(scope='module')
def trained(tmp_path_factory) -> Path:
    """A folder with toy_run.py, out/epoch_1.pth, and labelled images."""
    folder = tmp_path_factory.mktemp('evaluate')
    write_toy_run(folder)
    launch([
        sys.executable, TRAIN, 'toy_run.py', '--work-dir', 'out',
        '--cfg-options', 'train_cfg.max_epochs=1'
    ], folder)
    write_classes(folder / 'train', 3, 6, seed=1)
    write_classes(folder / 'test', 3, 5, seed=2)
    return folder


@pytest.fixture
def folder(trained, tmp_path, monkeypatch) -> Path:
    """A copy that a test may change, as the current folder."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def passes(monkeypatch) -> list:
    """The number of images of each forward pass."""
    found, forward = [], MAEViT.forward

    @functools.wraps(forward)
    def counted(self, x, *args, **kwargs):
        found.append(len(x))
        return forward(self, x, *args, **kwargs)

    monkeypatch.setattr(MAEViT, 'forward', counted)
    return found


ARGUMENTS = dict(
    model='toy_run.py', checkpoint='out/epoch_1.pth', train='train',
    test='test', options=['--num-workers', '0', '--json', 'results.json'])


def evaluate(*options: str, **changes: str) -> dict:
    args = dict(ARGUMENTS, **changes)
    main([
        args['model'], args['checkpoint'], '--train', args['train'], '--test',
        args['test'], *args['options'], *options
    ])
    return json.loads(Path('results.json').read_text())


def by_hand(split: str, pooling: str = 'mean'):
    """Features without any of the tool's code before extract_features."""
    model = get_model('toy_run.py', 'out/epoch_1.pth')
    batches = []
    for path in sorted(Path(split).glob('*/*.png')):
        # 40 x 48: the shorter side becomes round(32 / 0.8) = 40, as it is.
        image = cv2.imread(str(path))[4:36, 8:40]
        label = int(path.parent.name.removeprefix('class'))
        batches.append(
            dict(
                inputs=torch.from_numpy(image).permute(2, 0, 1)[None],
                data_samples=[DataSample().set_gt_label(label)]))
    return extract_features(model, batches, pooling)


def test_accuracies_by_hand(folder, capsys):
    splits = by_hand('train'), by_hand('test')
    knn = knn_accuracy(*splits, num_neighbors=3)
    linear = linear_probe_accuracy(*splits)
    results = evaluate('--crop-pct', '0.8', '-k', '3')
    assert 0 < results['knn'] == knn < 100
    assert 0 < results['linear'] == linear
    printed = capsys.readouterr().out
    assert ('18 training and 15 test images of 3 classes, 32 px; features: '
            'mean, 24 wide\n'
            f'kNN (k=3): {knn:.2f}\n'
            f'logistic regression: {linear:.2f}\n') in printed
    assert f'(sha256 {results["sha256"][:8]})\n' in printed
    assert (results['train_images'], results['test_images'],
            results['classes'], results['width'], results['k']) == (18, 15, 3,
                                                                    24, 3)


@pytest.mark.parametrize('flags, found', [
    ([], {'knn', 'k', 'linear'}), (['--knn'], {'knn', 'k'}),
    (['--linear'], {'linear'}), (['--knn', '--linear'], {'knn', 'k', 'linear'})
])
def test_flags(flags, found, folder):
    assert evaluate(*flags).keys() & {'knn', 'k', 'linear'} == found


def test_features_are_extracted_once(folder, passes):
    first = evaluate('--batch-size', '8')
    assert passes == [8, 8, 2, 8, 7]
    kept = sorted(Path('work_dirs/evaluate').iterdir())
    assert len(kept) == 2
    # Neighbours and batches change nothing of the features.
    assert evaluate('-k', '3', '--batch-size', '5')['linear'] == first[
        'linear']
    assert evaluate() == first
    assert len(passes) == 5
    assert sorted(Path('work_dirs/evaluate').iterdir()) == kept


def test_cache_is_tried_before_the_work(folder, passes, capsys):
    Path('taken').write_text('')
    with pytest.raises(SystemExit):
        evaluate('--cache', 'taken/cache')
    assert 'taken' in capsys.readouterr().err
    assert passes == []


def test_k_matters_for_neighbours_alone(folder, capsys):
    for path in sorted(folder.glob('train/*/*.png')):
        if path.stem != '0':
            path.unlink()
    assert 0 <= evaluate('--linear')['linear'] <= 100
    with pytest.raises(SystemExit):
        evaluate('--knn')
    assert 'k=5 nearest' in capsys.readouterr().err


def touch(path):
    os.utime(path, ns=(0, 0))


def change_checkpoint(path):
    checkpoint = torch.load(path, weights_only=False)
    checkpoint['state_dict']['backbone.ln1.bias'] += 1
    torch.save(checkpoint, path)


@pytest.mark.parametrize('change, options, num_images', [
    (lambda: touch('test/class1/2.png'), [], 15),
    (lambda: os.rename('train/class0/0.png', 'train/class1/x.png'), [], 18),
    (lambda: os.remove('test/class1/2.png'), [], 14),
    (lambda: change_checkpoint('out/epoch_1.pth'), [], 33),
    (lambda: Path('toy_run.py').write_text(
        Path('toy_run.py').read_text().replace('127.5', '120')), [], 33),
    (lambda: None, ['--features', 'cls'], 33),
    (lambda: None, ['--crop-pct', '1'], 33),
    (lambda: None, ['--cache', 'elsewhere'], 33),
    (lambda: shutil.rmtree('work_dirs'), [], 33),
])
def test_whatever_changes_is_extracted_anew(change, options, num_images,
                                            folder, passes):
    evaluate('--knn')
    assert sum(passes) == 33
    del passes[:]
    change()
    evaluate('--knn', *options)
    assert sum(passes) == num_images


def test_a_damaged_file_of_features_is_named(folder, capsys):
    evaluate('--knn')
    for path in Path('work_dirs/evaluate').iterdir():
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(SystemExit):
        evaluate()
    assert 'is damaged. Delete it' in capsys.readouterr().err


def test_cls_token(folder):
    wanted = knn_accuracy(by_hand('train', 'cls'), by_hand('test', 'cls'))
    results = evaluate('--features', 'cls', '--crop-pct', '0.8')
    assert results['knn'] == wanted
    assert results['features'] == 'cls'


def test_several_models_in_one_table(folder, capsys):
    """The student, itself untrained, alone by what it says itself, and a
    model of timm."""
    name = toys.ARCHITECTURES[0]
    torch.save(timm.create_model(name).state_dict(), 'vit.pth')
    with pytest.raises(SystemExit):
        main(['out/epoch_1.pth', '--train', 'train', '--test', 'test',
              '--beside', 'toy_vit_patch8_3'])
    assert 'Close to it are, of timm: toy_vit_patch8_32' in (
        capsys.readouterr().err)
    results = evaluate('--untrained', '--beside', 'out/epoch_1.pth',
                       '--beside', f'{name}.one=vit.pth')
    rows = results.pop('rows')
    assert rows[0] == results
    assert rows[2] == dict(
        rows[0], name='out/epoch_1.pth', model='out/epoch_1.pth',
        checkpoint=None)
    assert [row['untrained'] for row in rows] == [False, True, False, False]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        'model', 'parameters', 'px', 'width', 'kNN', '(k=5)', 'linear']
    for line, row in zip(lines[1:], rows):
        assert line.startswith(row['name'])
        assert line.split()[-4:] == [
            '32', str(row['width']), f'{row["knn"]:.2f}',
            f'{row["linear"]:.2f}']
    assert len({len(line) for line in lines[:5]}) == 1
    assert rows[1]['name'] == 'toy_run.py out/epoch_1.pth, untrained'
    assert lines[5] == ('18 training and 15 test images of 3 classes; '
                        'features: mean. Accuracies in percent.')


def test_a_list_of_training_images(folder, passes):
    lines = [f'class{label}/{i}.png {label}' for label in (0, 2)
             for i in (1, 4)]
    Path('list.txt').write_text('\n'.join(lines) + '\n')
    results = evaluate('--train-list', 'list.txt', '-k', '1', '--crop-pct',
                       '0.8')
    features, labels = by_hand('train')
    chosen = [1, 4, 13, 16]
    assert labels[chosen].tolist() == [0, 0, 2, 2]
    assert results['knn'] == knn_accuracy(
        (features[chosen], labels[chosen]), by_hand('test'), num_neighbors=1)
    assert (results['train_images'], results['classes']) == (4, 3)
    assert sum(passes[:2]) == 4 + 15


def spoil(folder: Path) -> None:
    """Some folders and files that cannot be evaluated."""
    (folder / 'flat').mkdir()
    shutil.copy('test/class0/0.png', 'flat/0.png')
    shutil.copytree('test/class0', 'single/class0')
    shutil.copytree('test', 'fewer')
    shutil.rmtree('fewer/class1')
    shutil.copytree('test', 'junk')
    Path('junk/class2/3.png').write_text('not an image')
    Path('list.txt').write_text('class0/9.png 0\nclass1/0.png 1\n')
    teacher = torch.load('out/epoch_1.pth', weights_only=False)['state_dict']
    teacher['backbone.pos_embed'] = torch.zeros(1, 17, 32)
    del teacher['backbone.cls_token']
    torch.save(teacher, 'other.pth')


@pytest.mark.parametrize('changes, options, message', [
    (dict(train='gone'), [], "There is no folder 'gone'"),
    (dict(test='flat'), [], "0 sub-folders and 1 image ('0.png') directly in "
     'it. Labels are given by sub-folders'),
    (dict(test='single'), [], "1 sub-folder ('class0')"),
    (dict(test='fewer'), [],
     "Only in train: ['class1']; only in fewer: none"),
    (dict(test='junk'), [],
     "1 of 15 files cannot be decoded as images: 'junk/class2/3.png' (no "),
    ({}, ['--train-list', 'list.txt'],
     "1 lines of 'list.txt' name a file that does not exist"),
    ({}, ['--train-list', 'gone.txt'], "There is no list 'gone.txt'"),
    ({}, ['-k', '19'], 'k=19 nearest neighbours cannot be found among 18'),
    ({}, ['--crop-pct', '1.5'], 'crop_pct=1.5 is not above 0'),
    ({}, ['--batch-size', '0'], '--batch-size: 0 is not at least 1'),
    ({}, ['--num-workers', '-1'], '--num-workers: -1 is not at least 0'),
    ({}, ['--device', 'gpu'], '--device gpu: '),
    ({}, ['--json', 'train'], 'train is a folder'),
    (dict(checkpoint='other.pth'), [],
     'other.pth is no checkpoint of model.backbone of toy_run.py: cls_token '
     'is missing; pos_embed has shape (1, 17, 32) instead of (1, 17, 24)'),
    (dict(checkpoint='gone.pth'), [], 'gone.pth'),
    (dict(model='gone.py'), [], "There is no config 'gone.py'"),
    (dict(model='vit-base-p16_32xb128-mae_in1'), [],
     "Did you mean 'vit-base-p16_32xb128-mae_in1k'"),
])
def test_refusals(changes, options, message, folder, passes, capsys):
    spoil(folder)
    with pytest.raises(SystemExit) as stop:
        evaluate(*options, **changes)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert passes == []
    assert not Path('results.json').exists()
    assert not Path('work_dirs').exists()


def test_without_scikit_learn(folder, passes, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'sklearn', None)
    with pytest.raises(SystemExit):
        evaluate()
    assert 'pip install scikit-learn' in capsys.readouterr().err
    assert passes == []
