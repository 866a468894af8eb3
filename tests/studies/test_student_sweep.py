"""What the sweep says of a backbone, and the page that it writes."""
from studies.student_sweep import Outcome, backbones, page, step, timm_models


def test_outcomes():
    outcome = step(dict(type='ResNet', depth=18, base_channels=8,
                        stem_channels=8))
    assert outcome.result == 'trains'
    assert outcome.details == '4 stages, the last 64 wide'
    assert outcome.options.endswith('64 px')
    # Patches of a size of its own.
    outcome = step(dict(
        type='TIMMBackbone', model_name='vit_tiny_patch16_224', depth=2,
        embed_dim=24, num_heads=2))
    assert outcome.result == 'trains'
    assert 'img_size=64' in outcome.options
    outcome = step(dict(type='MlpMixer', img_size=64, patch_size=16, arch=dict(
        embed_dims=8, num_layers=1, tokens_mlp_dims=8, channels_mlp_dims=8)))
    assert outcome.result == 'no map'
    outcome = step(dict(type='ResNet', depth=19))
    assert outcome.result == 'fails' and 'depth' in outcome.details


def test_all_backbones_and_families_are_tried():
    names = {cfg['type'] for cfg in backbones()}
    assert {'ResNet', 'SwinTransformer', 'CSPDarkNet', 'MAEViT'} <= names
    assert len(names) > 60 and 'TIMMBackbone' not in names
    families = [cfg['model_name'] for cfg in timm_models(False)]
    assert len(families) > 80 and 'test_resnet' in families
    assert {*families} < {cfg['model_name'] for cfg in timm_models(True)}


def test_the_page():
    outcomes = [Outcome('A', 'depth=2, 64 px', 'trains', '4 stages'),
                Outcome('B', '', 'fails', 'ValueError: backbone: a | b'),
                Outcome('C', '', 'no map', 'is no map. None of its options'),
                Outcome('D', '224 px', 'trains', '2 stages'),
                Outcome('E', '64 px', 'trains', '1 stages')]
    text = page(outcomes, outcomes[:1], False)
    assert '| mmpretrain | 3 of 4 (75 %) | 1 | 1 |' in text
    assert '| timm | 1 of 1 (100 %) | 0 | 0 |' in text
    assert '- of 64 px: `A`, `E`\n- of 224 px: `D`\n' in text
    assert '| `B` | fails | a / b |\n| `C` | no map | is no map. |' in text
    assert 'student_sweep\n' in text and 'of each family' in text
    text = page(outcomes, outcomes[:1], True)
    assert 'student_sweep --all\n' in text and 'All models.' in text
