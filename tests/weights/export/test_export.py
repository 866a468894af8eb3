"""Only what was found to compute the same takes its place."""
import json
import sys
from pathlib import Path

import pytest

from dmae_mm.weights import export_checkpoint, read_tensor_file
from dmae_mm.weights.export import mmseg_format, timm_format, trained_model

from tests.toys.checkpoints import train

from tests.toys.export_models import BACKBONES, refused, timm_arguments, write


def swapping(rename, one, other):
    """A mapping that confuses two weights of one shape."""

    def renamed(tensors):
        tensors = rename(tensors)
        tensors[one], tensors[other] = tensors[other], tensors[one]
        return tensors

    return renamed


@pytest.mark.parametrize('to, module, name, one, other', [
    ('timm', timm_format, 'backbone_to_timm', 'blocks.0.norm1.weight',
     'blocks.0.norm1.bias'),
    ('mmseg', mmseg_format, 'backbone_to_mmseg', 'layers.1.attn.proj.weight',
     'layers.2.attn.proj.weight'),
    ('mmseg without mmseg', mmseg_format, 'backbone_to_mmseg',
     'layers.0.ln2.weight', 'layers.1.ln2.weight'),
    ('mmpretrain', trained_model, 'backbone_from_timm', 'ln1.weight',
     'layers.3.ln2.weight'),
])
@pytest.mark.parametrize('existing', [False, True])
def test_a_wrong_mapping_is_found_out(tmp_path, monkeypatch, to, module, name,
                                      one, other, existing):
    if to == 'mmseg without mmseg':
        monkeypatch.setitem(sys.modules, 'mmseg', None)
    model, checkpoint, _ = write(tmp_path, BACKBONES['MAEViT'])
    kwargs = {}
    if to == 'mmpretrain':  # from timm
        in_timm = str(tmp_path / 'timm.pth')
        usage = export_checkpoint(model, checkpoint, in_timm, 'timm').usage
        (model, kwargs), checkpoint = timm_arguments(usage), in_timm
    dst = tmp_path / ('dst.pth' if existing else 'new/folder/dst.pth')
    if existing:
        dst.write_text('precious')
    before = sorted(tmp_path.rglob('*'))
    monkeypatch.setattr(module, name,
                        swapping(getattr(module, name), one, other))
    error = refused(
        model,
        checkpoint,
        dst,
        to.split()[0],
        overwrite=True,
        timm_kwargs=kwargs)
    assert 'computes something else from the same weights' in error
    assert sorted(tmp_path.rglob('*')) == before
    assert not existing or dst.read_text() == 'precious'


@pytest.mark.parametrize('to, module, name', [
    ('timm', timm_format, 'backbone_to_timm'),
    ('mmseg', mmseg_format, 'backbone_to_mmseg'),
])
def test_a_wrong_name_is_found_out(tmp_path, monkeypatch, to, module, name):
    """By timm, which loads strictly, and in spite of mmseg, which does not."""
    if to == 'mmseg':
        from tests.toys import needs_mmseg  # noqa: F401
    config, checkpoint, _ = write(tmp_path, BACKBONES['MAEViT'])
    rename = getattr(module, name)
    monkeypatch.setattr(
        module, name, lambda tensors: {
            key.replace('pos_embed', 'positions'): tensor
            for key, tensor in rename(tensors).items()
        })
    dst = tmp_path / 'dst.pth'
    error = refused(config, checkpoint, dst, to)
    assert error.startswith(to) and 'pos_embed' in error
    assert 'cannot load what was to be written' in error
    assert not dst.exists()


def test_origin_is_kept(tmp_path, toy_model):
    """Of a training run of this package, with its teacher, and averaged."""
    _, checkpoint = train(tmp_path, toy_model,
                          dict(type='EMAHook', momentum=.3))
    config = tmp_path / 'config.py'
    config.write_text(f'model = {toy_model!r}')
    read = read_tensor_file(checkpoint)
    for ending in ('pth', 'safetensors'):
        dst = str(tmp_path / f'timm.{ending}')
        exported = export_checkpoint(str(config), checkpoint, dst, 'timm')
        assert exported.file.is_averaged
        assert {'distill_neck.*', 'neck.*'} < set(exported.left_out)
        meta = read_tensor_file(dst).meta
        if ending == 'safetensors':
            for key in ('source_meta', 'averaged', 'max_differences',
                        'not_carried_over', 'notes'):
                meta[key] = json.loads(meta[key])
        assert meta['source'] == checkpoint and meta['sha256'] == read.sha256
        assert meta['averaged'] is True
        assert meta['converter'].startswith('dmae_mm ')
        assert meta['max_differences'] == exported.differences
        assert 0 <= max(exported.differences.values()) <= 1e-4
        assert meta['not_carried_over'] == exported.left_out
        assert meta['usage'] == exported.usage
        assert meta['source_meta'] == read.meta
        teacher = meta['source_meta']['teacher']
        assert teacher['type'] == 'MMPretrainTeacher'
        assert len(teacher['fingerprint']) == 64


@pytest.mark.parametrize('changes, message', [
    (dict(checkpoint='missing.pth'), 'does not exist'),
    (dict(destination='{source}', overwrite=True), 'is the source itself'),
    (dict(destination='{existing}'), 'exists already'),
    (dict(destination='dst.bin'),
     'dst.bin must end in .pth or .safetensors'),
    (dict(destination='dst.safetensors', to='mmseg'),
     'dst.safetensors must end in .pth to be read by mmseg'),
    (dict(to='nonsense'), "to='nonsense' is unknown. Choose one of timm, "),
    (dict(to='mmseg', num_classes=3),
     'num_classes=3 must be 0 or more, and is for timm only'),
    (dict(num_classes=-1), 'num_classes=-1 must be 0 or more'),
    (dict(timm_kwargs=dict(a=1)), 'is for models of timm, not for a config'),
    (dict(model='vit_tiny_patch16_224'),
     "A model of timm has timm's names already"),
    (dict(model='vit_tiny_patch16_224', to='mmseg', cfg_options=dict(a=1)),
     'There is no config to change'),
])
def test_refused_arguments(tmp_path, changes, message):
    config, checkpoint, _ = write(tmp_path, BACKBONES['MAEViT'])
    existing = tmp_path / 'existing.pth'
    existing.write_text('precious')
    before = sorted(tmp_path.rglob('*')), Path(checkpoint).read_bytes()
    arguments = dict(
        dict(
            model=config,
            checkpoint=checkpoint,
            destination=str(tmp_path / 'dst.pth'),
            to='timm'), **changes)
    arguments['destination'] = arguments['destination'].format(
        source=checkpoint, existing=existing)
    assert message in refused(**arguments)
    assert (sorted(tmp_path.rglob('*')),
            Path(checkpoint).read_bytes()) == before
    assert existing.read_text() == 'precious'
