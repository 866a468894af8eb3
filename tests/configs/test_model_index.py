"""model-index.yml: what mim and mmpretrain's list_models read."""
import re
from pathlib import Path

import mmpretrain
import pytest
from modelindex.load_model_index import load

from tests.toys.models import ROOT
from tests.toys.recipes import ALL, CONFIGS
from tests.toys.recipes import load as load_config


@pytest.fixture
def index():
    index = load(str(ROOT / 'model-index.yml'))
    index.build_models_with_collections()
    return index


def recipes():
    return {(CONFIGS / name).stem: f'configs/{name}' for name in ALL}


def test_index_has_every_recipe(index):
    assert not index.check(silent=True)
    named = {model.name: model.config for model in index.models}
    assert named == recipes()
    assert len(named) == len(list(index.models))


def test_index_claims_no_results_and_no_weights(index):
    for model in index.models:
        assert model.results is None and model.weights is None, model.name
        assert model.in_collection == 'DMAE'


def test_metadata_agree_with_the_configs(index):
    for model in index.models:
        cfg = load_config(model.config.removeprefix('configs/'))
        name, data = model.name, model.metadata.data
        num_images = (8 * cfg.train_dataloader.batch_size *
                      cfg.optim_wrapper.get('accumulative_counts', 1))
        assert data['Batch Size'] == num_images
        assert data['Epochs'] == cfg.train_cfg.max_epochs
        percent = re.search(r'-(\d+)pct', name)
        assert data['Training Data'] == (
            f'{percent[1]}% of ImageNet-1k' if percent else 'ImageNet-1k')
        assert data.get('Mask Ratio') == mask_ratio_of(cfg)
        assert data.get('Teacher') == teacher_of(cfg.model)


def mask_ratio_of(cfg) -> float:
    """Of MAE's backbone, of SparK, or of SimMIM's pipeline."""
    generators = [
        step for step in cfg.train_dataloader.dataset.pipeline
        if step.type == 'SimMIMMaskGenerator'
    ]
    found = [
        section.mask_ratio
        for section in (cfg.model.backbone, cfg.model, *generators)
        if 'mask_ratio' in section
    ]
    assert len(found) < 2
    return found[0] if found else None


def teacher_of(model) -> str:
    if model.get('teachers'):
        names = sorted(each.teacher.model_name
                       for each in model.teachers.values())
        return f'{" and ".join(names)} of timm'
    teacher = model.get('teacher')
    if teacher is None:
        return None
    if teacher.type == 'TimmTeacher':
        return f'{teacher.model_name} of timm'
    whole = teacher.type == 'ClassifierTeacher'
    arch = (teacher.model if whole else teacher).backbone.arch.upper()
    return f'MAE ViT-{arch}, ' + (
        '1600 epochs' if model.type == 'DMAE' else 'fine-tuned')


def test_published_numbers_say_whose_they_are(index):
    published = {
        model.name: model.metadata.data['Published Top 1 Accuracy']
        for model in index.models
        if 'Published Top 1 Accuracy' in model.metadata.data
    }
    assert published == {
        'vit-b_dmae_in1k': 84.0,
        'vit-b_dmae-mask95_in1k': 83.6,
        'vit-b_dmae-mask98_in1k': 82.4,
        'vit-s_dmae_in1k': 79.3
    }
    for model in index.models:
        by = model.metadata.data.get('Published By')
        assert (by is not None) == (model.name in published)
        assert by is None or by.startswith('Bai et al., CVPR 2023')


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
