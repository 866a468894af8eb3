import copy
import importlib

import pytest
import torch
from mmengine.registry import DefaultScope, init_default_scope
from mmpretrain.registry import MODELS

from tests.toys.models import TOY_MODEL
from tests.toys.coco import write_coco
from tests.toys.detection_runs import ARCH


@pytest.fixture(scope='package', autouse=True)
def _mmdet():
    """Look names up in mmdet, and not afterwards in other tests."""
    scopes = dict(DefaultScope._instance_dict)
    init_default_scope('mmdet')
    importlib.import_module('mmdet.models')
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(scopes)


@pytest.fixture(scope='session')
def coco(tmp_path_factory):
    """Folder of the tiny data set."""
    return write_coco(tmp_path_factory.mktemp('coco') / 'shapes')


@pytest.fixture(scope='session')
def student():
    """Backbone tensors of a toy DMAE model, patches of 16 px."""
    torch.manual_seed(0)
    model = copy.deepcopy(TOY_MODEL)
    size = dict(img_size=64, patch_size=16)
    model['backbone'].update(arch=ARCH, **size)
    model['neck'].update(embed_dim=ARCH['embed_dims'], patch_size=16)
    model['head']['patch_size'] = 16
    model['teacher']['backbone'].update(size)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(model)
        model.init_weights()
    torch.nn.init.normal_(model.backbone.cls_token, std=0.02)
    return model


@pytest.fixture(scope='session')
def pretrained(student, tmp_path_factory):
    """Path of its checkpoint."""
    path = tmp_path_factory.mktemp('dmae') / 'epoch_100.pth'
    torch.save(dict(state_dict=student.state_dict(), meta={}), path)
    return str(path)
