"""model-index.yml: what mim and mmpretrain's list_models read."""
import re
from pathlib import Path

import mmpretrain
import pytest
from mmpretrain.apis.model import ModelHub
from modelindex.load_model_index import load

from tests.conftest import ROOT


@pytest.fixture
def index():
    index = load(str(ROOT / 'model-index.yml'))
    index.build_models_with_collections()
    return index


def recipes():
    return {
        path.stem: path.relative_to(ROOT).as_posix()
        for folder in ('dmae', 'baselines', 'benchmarks')
        for path in ROOT.glob(f'configs/{folder}/*.py')
    }


def test_index_has_every_recipe(index):
    assert not index.check(silent=True)
    named = {model.name: model.config for model in index.models}
    assert len(recipes()) == 25
    assert recipes().items() <= named.items()
    assert len(named) == len(list(index.models))
    for config in named.values():
        assert (ROOT / config).is_file()


def test_index_claims_no_results_and_no_weights(index):
    for model in index.models:
        assert model.results is None and model.weights is None, model.name
        assert model.in_collection == 'DMAE'


def test_metadata_agree_with_the_configs(monkeypatch):
    # An empty hub: mmpretrain's own hundreds of models are not needed, and
    # those of this package may have been registered before.
    monkeypatch.setattr(ModelHub, '_models_dict', {})
    monkeypatch.setattr(ModelHub, '_ModelHub__mmpretrain_registered', True)
    ModelHub.register_model_index(ROOT / 'model-index.yml', config_prefix=ROOT)
    for name in recipes():
        model = ModelHub.get(name)
        cfg, data = model.config, model.metadata.data
        num_images = (8 * cfg.train_dataloader.batch_size *
                      cfg.optim_wrapper.get('accumulative_counts', 1))
        assert data['Batch Size'] == num_images
        assert data['Epochs'] == cfg.train_cfg.max_epochs
        assert data['Training Data'] == 'ImageNet-1k'
        if 'Mask Ratio' in data:
            assert data['Mask Ratio'] == cfg.model.backbone.mask_ratio
        teacher = cfg.model.get('teacher')
        if teacher is None:
            assert 'Teacher' not in data
        elif teacher.type == 'TimmTeacher':
            assert data['Teacher'] == f'{teacher.model_name} of timm'
        else:
            arch = teacher.backbone.arch.upper()
            assert data['Teacher'] == f'MAE ViT-{arch}, 1600 epochs'


def test_names_do_not_clash_with_mmpretrains(index):
    configs = Path(mmpretrain.__file__).parent / '.mim' / 'configs'
    theirs = {
        name.lower()
        for file in configs.glob('*/metafile.yml')
        for name in re.findall(r'^ *- Name: (.+)$', file.read_text(),
                               re.MULTILINE)
    }
    assert len(theirs) > 300
    assert not theirs & {model.name.lower() for model in index.models}
