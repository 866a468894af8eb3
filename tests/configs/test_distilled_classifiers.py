"""Baselines with a fine-tuned teacher: their sizes, and two steps of each."""
import copy

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

from tests.toys.models import STUDENT
from tests.toys.models import classifier, saved

from tests.toys.recipes import ROWS, SIZES, build, load, shape_of
from tests.toys.config_runs import (shrink_classifier,
                                    shrink_classifiers_teacher, shrink_run)

# Student -> teacher, its checkpoint, aligned block of the student and of the
# teacher.
TEACHERS = dict(t=('b', 'coslr-100e_in1k_20220825-cf70aa21.pth', 8, 8),
                s=('b', 'coslr-100e_in1k_20220825-cf70aa21.pth', 8, 8),
                b=('l', 'PATH_OF_THE_FINETUNED_TEACHER', 8, 17))
KINDS = dict(soft='vit-{}_soft-logits',
             hard='vit-{}_hard-logits',
             features='vit-{}_features',
             finetune='vit-{}_finetune-logits')


@pytest.mark.parametrize('size', 'tsb')
@pytest.mark.parametrize('kind', KINDS)
def test_recipe(kind, size):
    name = KINDS[kind].format(size)
    width, depth, heads, num_parameters = SIZES[size]
    arch, checkpoint, ours, its = TEACHERS[size]
    cfg, model = load(name), build(name)
    assert type(model).__name__ == 'DistilledImageClassifier'
    # The norm behind average pooling replaces the one in front of it.
    assert shape_of(model.backbone) == (width, depth, heads, num_parameters)
    assert model.head.fc.weight.shape == (1000, width)
    teacher = model.teacher
    assert teacher.checkpoint.endswith(checkpoint)
    assert (teacher.img_size, teacher.dtype) == ((224, 224), torch.float32)
    if kind == 'features':
        assert type(teacher).__name__ == 'MMPretrainTeacher'
        assert (teacher.embed_dims, teacher.num_layers) == SIZES[arch][:2]
        assert len(teacher.network.layers) == its + 1
        assert model.distillations.loss_names == [f'loss_align_s{ours}_t{its}']
        projector, = model.distill_neck.projectors
        assert projector.weight.shape == (SIZES[arch][0], width)
        assert model.logit_loss is None
        assert model.head.loss_module.loss_weight == 1
    else:
        assert type(teacher).__name__ == 'ClassifierTeacher'
        assert shape_of(teacher.network.backbone) == SIZES[arch]
        assert teacher.network.head.fc.weight.shape == (1000, SIZES[arch][0])
        assert teacher.num_classes == 1000
        assert model.distillations.loss_names == []
        assert model.logit_loss.mode == dict(hard='hard').get(kind, 'soft')
        assert model.logit_loss.temperature == 1
        assert model.logit_loss.loss_weight == 0.5
        assert model.head.loss_module.loss_weight == 0.5
    from_scratch = kind != 'finetune'
    assert isinstance(cfg.model.backbone.init_cfg, list) == from_scratch
    decay = cfg.optim_wrapper.paramwise_cfg.layer_decay_rate
    assert decay == (1 if from_scratch else 0.75)


def shrink(kind: str, folder) -> Config:
    """A config at toy size, whose teacher's weights are in a file."""
    cfg = ROWS[KINDS[kind].format('s')].read()
    shrink_classifier(cfg)
    shrink_classifiers_teacher(cfg)
    saved(folder / 'tuned.pth', classifier())
    cfg.model.teacher.checkpoint = str(folder / 'tuned.pth')
    if kind == 'finetune':
        student = classifier(STUDENT, backbone=dict(out_type='cls_token'))
        saved(folder / 'pretrained.pth', student)
        cfg.model.backbone.init_cfg.checkpoint = str(
            folder / 'pretrained.pth')
    return cfg


class Record(Hook):
    """Keeps what went into the first step's losses."""

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter > 0:
            return
        model = runner.model
        self.initial = copy.deepcopy(model.state_dict())
        self.fingerprint = model.teacher.fingerprint()
        self.seen = {}
        self.handles = [
            module.register_forward_hook(
                lambda module, args, output, name=name: self.seen.update(
                    {name: (args[0], output)}))
            for name, module in dict(
                backbone=model.backbone, head=model.head,
                head_loss=model.head.loss_module,
                aligned=model.backbone.layers[2]).items()
        ]
        self.handles.append(
            model.head.loss_module.register_forward_pre_hook(
                lambda module, args: self.seen.update(target=args[1])))

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        if runner.iter == 0:
            self.losses = {k: v.detach() for k, v in outputs.items()}
            for handle in self.handles:
                handle.remove()


@pytest.fixture(scope='module')
def image_folder(tmp_path_factory):
    """Five images in five folders."""
    root = tmp_path_factory.mktemp('images')
    random = np.random.RandomState(0)
    for index in range(5):
        (root / str(index)).mkdir()
        pixels = random.randint(0, 256, (40, 48, 3)).astype(np.uint8)
        cv2.imwrite(str(root / str(index) / 'image.png'), pixels)
    return root


@pytest.mark.parametrize('kind', KINDS)
def test_two_steps(kind, image_folder, tmp_path):
    cfg = shrink(kind, tmp_path)
    shrink_run(cfg, image_folder, tmp_path / 'run')
    cfg.merge_from_dict({
        'train_cfg.max_epochs': 1,
        'default_hooks.checkpoint.interval': 1
    })
    cfg.train_dataloader.drop_last = True  # two steps of two images
    for section in ('val_dataloader', 'val_cfg', 'val_evaluator'):
        cfg.pop(section)
    runner = Runner.from_cfg(cfg)
    record = Record()
    runner.register_hook(record, priority='VERY_LOW')
    runner.train()
    assert runner.iter == 2
    model, seen, losses = runner.model, record.seen, record.losses

    # The student moved, all of it; the teacher did not.
    for name, tensor in model.state_dict().items():
        assert not torch.equal(tensor, record.initial[name]), name
    assert model.teacher.fingerprint() == record.fingerprint
    checkpoint = torch.load(
        tmp_path / 'run' / 'epoch_1.pth', weights_only=False)
    assert checkpoint['meta']['teacher']['fingerprint'] == record.fingerprint
    assert checkpoint['meta']['teacher']['checkpoint'].endswith('tuned.pth')
    assert not any('teacher' in name for name in checkpoint['state_dict'])

    # The losses, from images, mixed labels and what the parts gave.
    images, logits = seen['backbone'][0], seen['head'][1]
    smooth = 0.9 * seen['target'] + 0.1 / 5
    torch.testing.assert_close(smooth.sum(1), torch.ones(2))
    weight = 1.0 if kind == 'features' else 0.5
    wanted = dict(
        loss_cls=-weight * (smooth * logits.log_softmax(1)).sum() / 2)
    teacher = MODELS.build(classifier()).eval()
    teacher.load_state_dict(
        torch.load(tmp_path / 'tuned.pth', weights_only=True)['state_dict'])
    tokens = {}
    teacher.backbone.layers[3].register_forward_hook(
        lambda module, args, output: tokens.update(its=output))
    with torch.no_grad():
        its = teacher(images)
    if kind == 'features':
        projected = F.linear(
            seen['aligned'][1],
            record.initial['distill_neck.projectors.0.weight'],
            record.initial['distill_neck.projectors.0.bias'])
        wanted['loss_align_s2_t3'] = (
            F.normalize(projected, dim=-1) -
            F.normalize(tokens['its'], dim=-1)).abs().mean()
    elif kind == 'hard':
        wanted['loss_logits'] = 0.5 * F.cross_entropy(logits, its.argmax(1))
    else:
        wanted['loss_logits'] = 0.5 * (its.softmax(1) * (
            its.log_softmax(1) - logits.log_softmax(1))).sum() / 2
    wanted['loss'] = sum(wanted.values())
    assert losses.keys() == wanted.keys()
    for name, value in losses.items():
        torch.testing.assert_close(value, wanted[name].detach(), msg=name)


@pytest.mark.parametrize('kind', ['soft', 'features'])
def test_without_the_teachers_file_it_stops(kind):
    cfg = ROWS[KINDS[kind].format('b')].read()
    shrink_classifier(cfg)
    shrink_classifiers_teacher(cfg)
    model = MODELS.build(cfg.model)
    with pytest.raises(
            FileNotFoundError,
            match='model.teacher.checkpoint: .*PATH_OF_THE_FINETUNED_TEACHER'):
        model.init_weights()
