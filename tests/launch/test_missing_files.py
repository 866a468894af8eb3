import pytest
from mmengine.config import Config

from dmae_mm.launch import missing_files


def problems(cfg, **kwargs):
    return '\n'.join(missing_files(Config(cfg), **kwargs))


def test_what_is_there_is_no_problem(tmp_path):
    (tmp_path / 'list.txt').write_text('')
    (tmp_path / 'model.pth').write_text('')
    dataset = dict(type='CustomDataset', data_root=str(tmp_path),
                   ann_file='list.txt', data_prefix='')
    assert missing_files(Config(dict(
        train_dataloader=dict(dataset=dataset),
        model=dict(teacher=dict(checkpoint=str(tmp_path / 'model.pth'))),
        load_from=None, default_hooks=dict(logger=None)))) == []


@pytest.mark.parametrize('dataset, message', [
    (dict(data_root='gone'), "there is no folder 'gone' to validate on: set "
     '--cfg-options val_dataloader.dataset.data_root=/path/to/images'),
    (dict(type='RepeatDataset', dataset=dict(data_root='gone')),
     'val_dataloader.dataset.dataset.data_root'),
    (dict(type='ConcatDataset', datasets=[dict(), dict(data_root='gone')]),
     'val_dataloader.dataset.datasets.1.data_root'),
    (dict(data_root='{}', ann_file='instances.json'),
     "/instances.json': set --cfg-options val_dataloader.dataset.ann_file"),
    (dict(data_root='{}', data_prefix=dict(img='train', seg='x')),
     'val_dataloader.dataset.data_prefix.seg or'),
    (dict(data_prefix='gone'), "there is no 'gone'"),
])
def test_missing_data(dataset, message, tmp_path):
    if dataset.get('data_root') == '{}':
        dataset = dict(dataset, data_root=str(tmp_path))
    assert message in problems(dict(val_dataloader=dict(dataset=dataset)))


@pytest.mark.parametrize('dataset', [
    dict(data_root='s3://bucket/images', ann_file='list.txt'),
    dict(type='CIFAR10', data_root='gone'),  # is downloaded
    dict(type='ADataSetOfItsOwn'),
    'no dict',
])
def test_data_that_cannot_be_looked_for(dataset):
    assert problems(dict(train_dataloader=dict(dataset=dataset))) == ''


def test_missing_checkpoints():
    cfg = dict(
        load_from='gone/epoch_1.pth',
        model=dict(
            pretrained='gone/1.pth',
            backbone=dict(init_cfg=[
                dict(type='Pretrained', checkpoint='gone/2.pth'),
                dict(type='Pretrained', checkpoint='https://host/3.pth')
            ]),
            teacher=dict(checkpoint='gone/4.pth', pretrained='vit_base')),
        custom_hooks=[dict(type='X'), dict(test_root='gone')])
    found = problems(cfg)
    assert found.count('\n') == 4
    for option in ('load_from', 'model.pretrained', 'model.teacher.checkpoint',
                   'model.backbone.init_cfg.0.checkpoint',
                   'custom_hooks.1.test_root'):
        assert option in found
    assert problems(cfg, checkpoints=False) == ''


def test_a_folder_is_there_but_no_checkpoint(tmp_path):
    teacher = dict(model=dict(teacher=dict(checkpoint=str(tmp_path))))
    assert problems(teacher).startswith(
        f'model.teacher.checkpoint: The checkpoint {tmp_path} is a folder, '
        'without a file of weights')
    (tmp_path / 'model.safetensors').write_text('')
    assert problems(teacher) == ''
    for cfg, option in (  # MMEngine reads no folders
        (dict(load_from=str(tmp_path)), 'load_from'),
        (dict(model=dict(init_cfg=[dict(checkpoint=str(tmp_path))])),
         'model.init_cfg.0.checkpoint'),
    ):
        assert problems(cfg) == (
            f"{option}: '{tmp_path}' is a folder. Give the path of a file in "
            f'it: {tmp_path}/model.safetensors.')


def test_a_shard_is_missing(tmp_path):
    (tmp_path / 'model.safetensors.index.json').write_text(
        '{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    assert 'model-00001-of-00002.safetensors is not there' in problems(
        dict(model=dict(teacher=dict(checkpoint=str(tmp_path)))))


def test_folders_of_what_is_not_read(tmp_path):
    """The host's data set would name its extensions, not what it found."""
    (tmp_path / 'sub').mkdir()
    dataset = dict(type='CustomDataset', data_root=str(tmp_path),
                   data_prefix='sub', with_label=False)
    cfg = dict(train_dataloader=dict(dataset=dataset))
    for index in range(40):
        (tmp_path / 'sub' / f'{index}.heic').write_text('x')
    assert problems(cfg).startswith(
        'train_dataloader.dataset: There are no images (.jpg, ')
    assert 'Found 40 .heic, which are not read: convert' in problems(cfg)
    (tmp_path / 'sub' / 'a.JPG').write_text('x')
    assert problems(cfg) == ''
