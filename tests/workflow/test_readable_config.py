import pytest
from mmengine.config import Config

from dmae_mm.host import read_config
from dmae_mm.workflow import readable_config
from tests.toys.models import ROOT

WRITTEN = """\
model = dict(type='DMAE', backbone=dict(type='ViT', size=224), pairs=[(1, 2)])
train_dataloader = dict(
    numbers=[
        10000000, 10000001, 10000002, 10000003, 10000004, 10000005, 10000006,
        10000007, 10000008, 10000009,
    ],
    one=(1,),
    none=None,
    empty=dict(),
)
extra = {'a-b': 1, 'lambda': 0.5}
"""


def config():
    return Config(dict(
        extra={'a-b': 1, 'lambda': .5},
        train_dataloader=dict(
            numbers=list(range(10**7, 10**7 + 10)), one=(1, ), none=None,
            empty=dict()),
        model=dict(backbone=dict(size=224, type='ViT'), type='DMAE',
                   pairs=[(1, 2)])))


def test_sections_are_in_order_and_lines_fit():
    assert readable_config(config()) == WRITTEN


@pytest.mark.parametrize('name', [None, 'vit-s_dmae-mae-dinov2_in1k'])
def test_it_is_read_back(tmp_path, name):
    cfg = config() if name is None else read_config(
        str(ROOT / 'configs' / 'dmae' / f'{name}.py'))
    path = tmp_path / 'config.py'
    path.write_text(readable_config(cfg))
    assert Config.fromfile(str(path)).to_dict() == cfg.to_dict()
