"""No tool and no option executes what is planted in a checkpoint."""
import http.server
import os
import runpy
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.runner import Runner, load_checkpoint
from mmpretrain import get_model
from mmpretrain.registry import HOOKS, MODELS

from tests.toys.models import ROOT, STUDENT, TOY_MODEL
from tests.toys.folders import write_classes
from tests.toys.models import classifier
from tests.toys.runs import write_toy_run

MARKER = 'code-from-the-file-ran'


class Payload:

    def __reduce__(self):
        return os.mkdir, (MARKER, )


# In which place of a checkpoint it lies.
PLACES = dict(
    state_dict=lambda state: dict(state, payload=Payload()),
    ema_state_dict=lambda state: dict(state, payload=Payload()),
    message_hub=lambda _: dict(
        log_scalars=dict(loss=Payload()), runtime_info={}, resumed_keys={}),
    optimizer=lambda _: dict(state={0: [Payload()]}, param_groups=[]),
    param_schedulers=lambda _: [Payload()],
    meta=lambda _: dict(epoch=1, iter=1, payload=Payload()),
)

PRETRAINED = ['{}.type=Pretrained', '{}.checkpoint=hostile.pth']
FLEXIBLE = ['runner_type=FlexibleRunner', 'env_cfg.cudnn_benchmark=False',
            'strategy.type=SingleDeviceStrategy']
# What names the file, for each tool that takes one.
TRAIN = {
    '--resume FILE': ['--resume', 'hostile.pth'],
    '--resume': ['--resume'],
    'load_from': ['load_from=hostile.pth'],
    'load_from a URL': ['load_from={url}/hostile.pth'],
    'resume and load_from': ['resume=True', 'load_from=hostile.pth'],
    'a resumed URL': ['--resume', '{url}/hostile.pth'],
    'init_cfg of the backbone': [
        line.format('model.backbone.init_cfg') for line in PRETRAINED],
    'init_cfg of the model': [
        line.format('model.init_cfg') for line in PRETRAINED],
    "the teacher's": ['model.teacher.checkpoint=hostile.pth'],
    'FlexibleRunner': ['load_from=hostile.pth', *FLEXIBLE],
    'FlexibleRunner, resume': [
        'load_from=hostile.pth', 'resume=True', *FLEXIBLE],
    '--check': ['--check', 'load_from=hostile.pth'],
    '--check init_cfg': ['--check'] + [
        line.format('model.backbone.init_cfg') for line in PRETRAINED],
}
FILE = 'hostile.pth'
OTHERS = {
    'evaluate': ['toy_run.py', FILE, '--train', 'train', '--test', 'train'],
    'visualize_reconstruction': ['toy_run.py', FILE, 'images/0.png'],
    'visualize_reconstruction, teacher': [
        'toy_run.py', 'clean.pth', 'images/0.png', '--similarity',
        '--cfg-options', f'model.teacher.checkpoint={FILE}'],
    'analysis/layer_similarity': [
        'toy_run.py', '--images', 'images', '--checkpoint', FILE],
    'analysis/layer_similarity, teacher': [
        'toy_run.py', '--images', 'images', '--cfg-options',
        f'model.teacher.checkpoint={FILE}'],
    'model_converters/export': ['toy_run.py', FILE, 'x.pth', '--to', 'timm'],
    'model_converters/mae_to_mmpretrain': [FILE, 'x.pth'],
    'check_transfer': ['classifier.py', FILE],
    'check_transfer, load_from too': [
        'classifier.py', 'clean.pth', '--cfg-options',
        'model.backbone.init_cfg=None',
        'model.head.init_cfg.type=Pretrained',
        f'model.head.init_cfg.checkpoint={FILE}'],
    'replay_step': ['toy_run.py', FILE],
    'test': ['classifier.py', FILE],
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Configs of a pre-training and of a classifier, images, weights."""
    folder = tmp_path_factory.mktemp('hostile')
    write_toy_run(folder)
    write_classes(folder / 'train', 2, 6, seed=1)
    pipeline = [dict(type='LoadImageFromFile'),
                dict(type='Resize', scale=(32, 32)), dict(type='PackInputs')]
    Config(
        dict(
            default_scope='mmpretrain',
            model=classifier(
                STUDENT, dict(init_cfg=dict(
                    type='Pretrained', checkpoint='x', prefix='backbone.')),
                data_preprocessor=dict(mean=[0] * 3, std=[1] * 3)),
            test_dataloader=dict(
                batch_size=2,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=dict(
                    type='CustomDataset', data_root=str(folder / 'train'),
                    pipeline=pipeline)),
            test_evaluator=dict(type='Accuracy'),
            test_cfg=dict())).dump(folder / 'classifier.py')
    torch.save(dict(state_dict=MODELS.build(TOY_MODEL).state_dict(), meta={}),
               folder / 'clean.pth')
    return folder


@pytest.fixture(autouse=True)
def _scopes():
    """A runner of mmdet or mmseg leaves its own."""
    scopes = dict(DefaultScope._instance_dict)
    init_default_scope('mmpretrain')
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(scopes)


@pytest.fixture
def plant(folder, tmp_path, monkeypatch):
    """Writes the hostile file into the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', list(sys.path))
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)

    def write(place='meta', path=FILE):
        content = torch.load('clean.pth')
        state = content['state_dict']
        content['meta'] = dict(epoch=1, iter=1)
        content[place] = PLACES[place](state)
        torch.save(content, path)

    write()
    return write


@pytest.fixture
def url(tmp_path):
    handler = partial(http.server.SimpleHTTPRequestHandler,
                      directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()
        thread.join()


def ends(tool, arguments, monkeypatch, capfd):
    """What a tool says that must not end well."""
    path = ROOT / 'tools' / f'{tool}.py'
    monkeypatch.setattr(sys, 'argv', [str(path), *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(path), run_name='__main__')
    assert stop.value.code not in (None, 0)
    said = capfd.readouterr()
    return f'{stop.value.code} {said.out} {said.err}'


def assert_refused(said):
    assert 'hostile.pth' in said and 'is refused: it asks for' in said
    assert 'posix.mkdir' in said and 'Nothing was executed.' in said
    assert not os.path.exists(MARKER)
    assert 'TORCH_FORCE_WEIGHTS_ONLY_LOAD' not in os.environ


def train(options, monkeypatch, capfd, **places):
    """Run tools/train.py with options in any order."""
    options = [option.format(**places) for option in options]
    named = [option for option in options if '=' in option]
    return ends('train', [
        'toy_run.py', '--work-dir', 'out',
        *(option for option in options if '=' not in option),
        '--cfg-options', f'experiment_name={Path.cwd().name}', *named
    ], monkeypatch, capfd)


def test_the_payload_works(plant):
    """So it would run where files are simply unpickled."""
    for place in PLACES:
        plant(place)
        torch.load(FILE, weights_only=False)
        os.rmdir(MARKER)


@pytest.mark.parametrize('name', TRAIN)
def test_train(plant, url, monkeypatch, capfd, name):
    monkeypatch.setenv('TORCH_HOME', 'torch_home')
    if any('resume' in option for option in TRAIN[name]):
        os.mkdir('out')
        Path('out/last_checkpoint').write_text(os.path.abspath(FILE))
    assert_refused(train(TRAIN[name], monkeypatch, capfd, url=url))
    assert not list(Path('out').glob('*.pth'))


@pytest.mark.parametrize('place', PLACES)
def test_each_place_in_a_resumed_file(plant, monkeypatch, capfd, place):
    plant(place)
    assert_refused(
        train(['--resume', FILE, 'default_hooks.ema.type=EMAHook'],
              monkeypatch, capfd))


@pytest.mark.parametrize('options', [['load_from=train'],
                                     ['--resume', 'train'],
                                     ['resume=True', 'load_from=train']])
def test_folders(plant, monkeypatch, capfd, options):
    """Strategies such as DeepSpeed's read them with loaders of their own."""
    said = train([*options, *FLEXIBLE], monkeypatch, capfd)
    assert "'train' is a folder" in said or 'train cannot be' in said or (
        "there is no checkpoint 'train'" in said)


@pytest.mark.parametrize('name', OTHERS)
def test_other_tools(plant, monkeypatch, capfd, name):
    monkeypatch.setenv('TORCH_HOME', 'torch_home')
    assert_refused(
        ends(name.split(',')[0], OTHERS[name], monkeypatch, capfd))
    assert not os.path.exists('x.pth')


def tune(cfg, options, monkeypatch, capfd):
    cfg.dump('tuned.py')
    return ends('train', ['tuned.py', '--cfg-options', *options], monkeypatch,
                capfd)


FINE_TUNING = [['model.backbone.init_cfg.checkpoint=hostile.pth'],
               ['model.backbone.init_cfg=None', 'load_from=hostile.pth'],
               ['model.backbone.init_cfg=None', 'load_from=hostile.pth',
                'resume=True']]


@pytest.mark.parametrize('options', FINE_TUNING)
def test_fine_tuning_in_mmseg(plant, monkeypatch, capfd, options):
    from tests.toys import needs_mmseg  # noqa: F401
    from tests.toys.ade20k import write_ade20k
    from tests.toys.segmentation_runs import shrink_run
    cfg = Config.fromfile(ROOT / 'configs' / 'segmentation' /
                          'vit-s_upernet_ade20k-512x512.py')
    shrink_run(cfg, Path('run'), 2)
    cfg.model.backbone.update(
        arch=STUDENT, patch_size=8, out_indices=[0, 1, 2, 3])
    cfg.model.neck.embed_dim = 24
    cfg.model.decode_head.update(in_channels=[24] * 4, channels=16)
    cfg.model.auxiliary_head.update(in_channels=24, channels=8)
    write_ade20k(Path('data'))
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = os.path.abspath('data')
    assert_refused(tune(cfg, options, monkeypatch, capfd))


@pytest.mark.parametrize('options', FINE_TUNING)
def test_fine_tuning_in_mmdet(plant, monkeypatch, capfd, options):
    from tests.toys import needs_mmdet  # noqa: F401
    from tests.toys.coco import write_coco
    from tests.toys.detection_runs import MASK_RCNN, toy_config
    cfg = toy_config(MASK_RCNN, write_coco(Path('coco')), Path('run'), 'x')
    assert_refused(tune(cfg, options, monkeypatch, capfd))


def test_a_backbone_of_mmseg(plant):
    """Some call MMEngine's loader themselves."""
    backbones = pytest.importorskip('mmseg.models.backbones')
    backbone = backbones.MAE(
        img_size=(32, 32), patch_size=8, embed_dims=24, num_layers=2,
        num_heads=2, out_indices=[1],
        init_cfg=dict(type='Pretrained', checkpoint=FILE))
    with pytest.raises(ValueError, match='it asks for posix.mkdir'):
        backbone.init_weights()
    assert not os.path.exists(MARKER)


def test_importing_the_package_is_enough_for_the_hosts(plant, monkeypatch):
    """Even where torch is told to unpickle, as advice on the web has it."""
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    model = classifier(STUDENT)
    pretrained = dict(type='Pretrained', checkpoint=FILE)
    for load in (
            lambda: get_model(Config(dict(model=model)), pretrained=FILE),
            lambda: load_checkpoint(MODELS.build(model), FILE),
            lambda: MODELS.build(
                dict(model, init_cfg=pretrained)).init_weights(),
            lambda: Runner.from_cfg(
                dict(model=model, work_dir='run', log_level='ERROR',
                     default_scope='mmpretrain')).load_checkpoint(FILE)):
        with pytest.raises(ValueError, match='it asks for posix.mkdir'):
            load()
    assert not os.path.exists(MARKER)


@pytest.mark.parametrize('variable', [
    'TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'])
def test_a_tool_holds_back_whoever_calls_torch_load(plant, monkeypatch,
                                                    capfd, variable):
    """Here a hook of one's own, which a config names."""
    monkeypatch.setenv(variable, '1')

    @HOOKS.register_module(force=True)
    class ReadingHook(Hook):

        def __init__(self, path):
            torch.load(path, weights_only=False)

    said = train(['default_hooks.own.type=ReadingHook',
                  f'default_hooks.own.path={FILE}'], monkeypatch, capfd)
    assert 'posix.mkdir' in said and 'weights_only' in said
    assert not os.path.exists(MARKER)
    assert os.environ[variable] == '1'
