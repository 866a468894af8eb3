"""tools/visualize_reconstruction.py: what it draws, needs and refuses."""
import copy
import functools
import runpy
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS

from dmae_mm.evaluation.images import EvaluationPipeline
from dmae_mm.evaluation.pictures import draw_reconstructions
from dmae_mm.evaluation.reconstruction import reconstruct
from dmae_mm.models.distillations import Distillations
from dmae_mm.weights import mae_to_mmpretrain
from tests.toys.checkpoints import encoder_only, golden_weights
from tests.toys.models import ROOT
from tests.toys.odd_files import broken_files
from tests.toys.runs import write_toy_run

main = runpy.run_path(
    str(ROOT / 'tools' / 'visualize_reconstruction.py'))['main']


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """A model, and a folder with its config, checkpoint and images."""
    folder = tmp_path_factory.mktemp('reconstruction')
    cfg = Config.fromfile(write_toy_run(folder))
    torch.manual_seed(3)
    model = MODELS.build(cfg.model)
    model.init_weights()
    weights = model.state_dict()
    torch.save(dict(state_dict=weights, meta=dict(epoch=1)),
               folder / 'run.pth')
    spoil(folder, weights)
    return model, folder


@pytest.fixture
def model(built, tmp_path, monkeypatch):
    """A copy of both that a test may change, and work in."""
    shutil.copytree(built[1], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return copy.deepcopy(built[0])


def picture(path='out.png') -> np.ndarray:
    return cv2.imread(path)[..., ::-1]


def inputs(names, crop_pct=0.875) -> list:
    return EvaluationPipeline(32, crop_pct).read(names)['inputs']


IMAGES = ['images/0.png', 'images/5.png']


def test_ratios_side_by_side(model, capsys):
    """Each image a row; the model as trained, maps included."""
    main([
        'toy_run.py', 'run.pth', *IMAGES, '--mask-ratio', '0.5', '0.9',
        '--seed', '4', '--similarity', '--crop-pct', '1', '--out', 'out.png'
    ])
    columns = []
    for ratio in (0.5, 0.9):
        model.backbone.mask_ratio = ratio
        columns.append(reconstruct(model, inputs(IMAGES, 1), seed=4))
    assert columns[0][1].num_visible == 8 and columns[1][1].num_visible == 1
    assert columns[0][1].similarity
    wanted = draw_reconstructions(
        list(zip(*columns)), 'run.pth: 0.png, 5.png')
    assert np.array_equal(picture(), wanted)
    assert 'out.png: 2 x 2 reconstructions by run.pth' in (
        capsys.readouterr().out)


def test_no_teacher_is_needed(model):
    """Its file does not exist; the ratio is the config's."""
    cfg = Config.fromfile('toy_run.py')
    cfg.model.teacher.update(checkpoint='gone.pth', allow_random=False)
    cfg.dump('no_teacher.py')
    main(['no_teacher.py', 'run.pth', *IMAGES])
    model.distillations = Distillations(None, {})  # plain MAE
    columns = reconstruct(model, inputs(IMAGES))
    assert columns[0].num_visible == 4
    wanted = draw_reconstructions([[one] for one in columns],
                                  'run.pth: 0.png, 5.png')
    assert np.array_equal(picture('reconstruction.png'), wanted)


def test_a_file_of_mae(model):
    """FAIR's names, decoder included, are the same as mmpretrain's."""
    weights = golden_weights('student')
    for folder, tensors in (('mae', weights),
                            ('mmpretrain', mae_to_mmpretrain(weights))):
        Path(folder).mkdir()
        torch.save(dict(model=tensors), f'{folder}/run.pth')
        main(['toy_run.py', f'{folder}/run.pth', *IMAGES, '--similarity',
              '--out', f'{folder}.png'])
    assert np.array_equal(picture('mae.png'), picture('mmpretrain.png'))


def spoil(folder: Path, weights: dict) -> None:
    """Files that cannot be drawn from, or not drawn."""
    encoder = {
        name: tensor
        for name, tensor in weights.items() if name.startswith('backbone.')
    }
    incomplete = dict(weights)
    del incomplete['neck.decoder_blocks.1.ln1.weight']
    for name, content in (
        ('encoder', dict(state_dict=encoder)),
        ('bare', {name[9:]: tensor for name, tensor in encoder.items()}),
        ('mae_encoder', encoder_only(golden_weights('student'))),
        ('incomplete', dict(state_dict=incomplete)),
        ('pickle', dict(state_dict=weights, run=functools.partial(print))),
    ):
        torch.save(content, folder / f'{name}.pth')
    (folder / 'junk.png').write_text('not an image')
    (folder / 'cut.jpg').write_bytes(broken_files()['cut.jpg'])


@pytest.mark.parametrize('checkpoint', [
    'encoder.pth', 'bare.pth', 'mae_encoder.pth'
])
def test_without_decoder(checkpoint, model, capsys):
    with pytest.raises(SystemExit) as stop:
        main(['toy_run.py', checkpoint, *IMAGES])
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert f'{checkpoint} has no decoder' in message
    assert 'epoch_*.pth' in message
    assert not Path('reconstruction.png').exists()


@pytest.mark.parametrize('args, message', [
    (['toy_run.py', 'incomplete.pth', *IMAGES],
     'neck.decoder_blocks.1.ln1.weight is missing'),
    (['toy_run.py', 'pickle.pth', *IMAGES], 'pickle.pth is refused'),
    (['toy_run.py', 'gone.pth', *IMAGES], 'gone.pth'),
    (['toy_run.py', 'run.pth', 'gone.png'], "There is no image 'gone.png'"),
    (['toy_run.py', 'run.pth', 'junk.png'], "'junk.png' cannot be decoded"),
    (['toy_run.py', 'run.pth', 'cut.jpg'],
     "'cut.jpg' cannot be decoded: cut off"),
    (['toy_run.py', 'run.pth', *IMAGES, '--mask-ratio', '0.5', '1'],
     'mask_ratio=1.0 is not a number from 0'),
    (['toy_run.py', 'run.pth', *IMAGES, '--mask-ratio', '0.99'],
     'leaves none of the 16 patches visible'),
    (['toy_run.py', 'run.pth', *IMAGES, '--mask-ratio', '0'],
     'masks nothing'),
    (['toy_run.py', 'run.pth', *IMAGES, '--out', 'out.jpg'],
     "'out.jpg' is not the name of a .png file"),
    (['toy_run.py', 'run.pth', *IMAGES, '--out', IMAGES[1]],
     'one of the images'),
    (['toy_run.py', 'run.pth', *IMAGES, '--crop-pct', '2'],
     'crop_pct=2.0 is not above 0'),
    (['toy_run.py', 'run.pth', *IMAGES, '--seed', '-1'],
     '--seed: -1 is not at least 0'),
    (['toy_run.py', 'run.pth', *IMAGES, '--cfg-options',
      'model.backbone.patch_size=4'], 'neck: num_patches is 16'),
    (['toy_run.py', 'run.pth', *IMAGES, '--similarity', '--cfg-options',
      'model.teacher=None'], 'has no model.teacher'),
    (['toy_run.py', 'run.pth', *IMAGES, '--similarity', '--cfg-options',
      'model.distill_loss.type=TokenRelationLoss'], 'compares no projected'),
    (['gone.py', 'run.pth', *IMAGES], "There is no config 'gone.py'"),
])
def test_refusals(args, message, model, capsys):
    before = Path(IMAGES[1]).read_bytes()
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not Path('reconstruction.png').exists()
    assert Path(IMAGES[1]).read_bytes() == before
