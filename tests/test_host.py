"""The configs by name, in mmpretrain's own model hub."""
import importlib
import shutil
import subprocess
import sys

import pytest
from mmpretrain import get_model, list_models
from mmpretrain.apis.model import ModelHub

import dmae_mm
from dmae_mm import host
from tests.toys.models import ROOT


def test_import_makes_the_configs_known():
    """In a process that imports nothing else."""
    code = ('import dmae_mm, importlib; importlib.reload(dmae_mm); '
            'from mmpretrain import list_models; '
            "print(*list_models('*_dmae*'))")
    names = subprocess.run([sys.executable, '-W', 'ignore', '-c', code],
                           cwd=ROOT,
                           capture_output=True,
                           text=True,
                           check=True).stdout.split()
    assert set(names) >= {
        path.stem
        for path in (ROOT / 'configs' / 'dmae').glob('*.py')
    }


def test_registered_models_are_found_and_built():
    assert list_models('vit-s_dmae_in1k') == ['vit-s_dmae_in1k']
    assert {'vit-t_mae_in1k', 'vit-t_finetune_in1k',
            'vit-t_linear_in1k'} <= set(list_models('vit-t_*'))
    # Those of mmpretrain are there as before.
    assert list_models('mae_vit-base-p16_8xb512')
    model = get_model('vit-t_dmae_in1k')
    assert type(model).__name__ == 'DMAE'
    assert model.backbone.embed_dims == 192
    assert not model.teacher.is_loaded


def test_registering_again_changes_nothing():
    importlib.reload(dmae_mm)
    before = dict(ModelHub._models_dict)
    host.register_configs()
    assert ModelHub._models_dict == before


@pytest.fixture
def empty_hub(monkeypatch):
    monkeypatch.setattr(ModelHub, '_models_dict', {})
    return ModelHub._models_dict


@pytest.mark.parametrize('below', ['', '_dmae_mm/.mim'])
def test_where_the_configs_lie(below, empty_hub, tmp_path, monkeypatch):
    """Beside the package in a checkout, in a folder of the wheel else."""
    root = tmp_path / below
    shutil.copytree(ROOT / 'configs', root / 'configs')
    shutil.copy(ROOT / 'model-index.yml', root)
    if below:  # of another package that is installed there
        (tmp_path / 'model-index.yml').write_text('Models: [')
    monkeypatch.setattr(host, '__file__',
                        str(tmp_path / 'dmae_mm' / 'host.py'))
    host.register_configs()
    assert empty_hub['vit-s_dmae_in1k'].config == str(
        root / 'configs' / 'dmae' / 'vit-s_dmae_in1k.py')


def test_without_configs_there_is_nothing_to_register(empty_hub, tmp_path,
                                                      monkeypatch):
    """Nor is the model index of a project that contains the package."""
    (tmp_path / 'model-index.yml').write_text('Models: [')
    monkeypatch.setattr(host, '__file__',
                        str(tmp_path / 'dmae_mm' / 'host.py'))
    host.register_configs()
    assert empty_hub == {}


def test_all_tools_read_options_in_the_same_way():
    """MMEngine's own action, DictAction, ends in a traceback."""
    users = [path for folder in ('dmae_mm', 'tools', 'studies')
             for path in (ROOT / folder).rglob('*.py')
             if 'DictAction' in path.read_text()]
    assert users == [ROOT / 'dmae_mm' / 'host.py']
