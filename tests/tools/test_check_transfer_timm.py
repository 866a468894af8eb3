"""What arrives in ViTs of timm: from timm, from students, from mmpretrain."""
import timm
import torch

from tests.toys.models import TOY_MODEL, randomize, timm_student
from tests.toys.transfer_checks import check, refused, trained, write_config

STUDENT = timm_student()
NUM_TENSORS = 4 + 4 * 12 + 2


def timm_file():
    model = timm.create_model(
        STUDENT['model_name'], img_size=32, **STUDENT['model_kwargs'])
    randomize(model)
    torch.save(dict(state_dict=model.state_dict()), 'timm.pth')
    return 'timm.pth'


def student_file():
    state = trained(dict(TOY_MODEL, backbone=STUDENT))
    torch.save(dict(state_dict=state, meta={}), 'dmae.pth')
    return 'dmae.pth'


def backbone(kind, **changes):
    cfg = dict(STUDENT, type=kind, **changes)
    del cfg['mask_ratio']
    return dict(type='ImageClassifier', backbone=cfg)


def test_students_of_timm(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    init_cfg = dict(type='Pretrained', checkpoint='x')
    files = timm_file(), student_file()
    models = [
        dict(TOY_MODEL, backbone=timm_student(init_cfg=init_cfg)),
        backbone('TimmViT', init_cfg=init_cfg),
        backbone('TimmViT', init_cfg=init_cfg, img_size=64),
    ]
    for model in models:
        write_config(model)
        for file in files:
            lines = check(capsys, 'cfg.py', file)
            assert lines[-1] == (f'All {NUM_TENSORS} backbone tensors arrived '
                                 '(0 resized).')
            assert 'model.backbone.init_cfg.checkpoint' in lines[1]
    # Also what a training goes on from.
    write_config(dict(TOY_MODEL, backbone=STUDENT))
    assert 'All' in check(capsys, 'cfg.py', 'dmae.pth')[-1]
    _, said = refused(capsys, 'cfg.py', 'timm.pth')
    assert ("names of timm. Give model.backbone.init_cfg=dict(type="
            "'Pretrained', checkpoint=...), which reads these") in said


def test_timm_backbone(tmp_path, monkeypatch, capsys):
    """mmpretrain's own takes a student's checkpoint as it is."""
    monkeypatch.chdir(tmp_path)
    cfg = dict(
        type='TIMMBackbone', model_name=STUDENT['model_name'], img_size=32,
        init_cfg=dict(type='Pretrained', checkpoint='x', prefix='backbone.'),
        **STUDENT['model_kwargs'])
    write_config(dict(type='ImageClassifier', backbone=cfg))
    lines = check(capsys, 'cfg.py', student_file())
    assert lines[-1] == (f'All {NUM_TENSORS} backbone tensors arrived '
                         '(0 resized).')


def test_another_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_config(backbone('TimmViT', model_kwargs=dict(
        STUDENT['model_kwargs'], depth=3),
        init_cfg=dict(type='Pretrained', checkpoint='x')))
    _, said = refused(capsys, 'cfg.py', timm_file())
    assert 'blocks.3.norm1.weight is unknown' in said
