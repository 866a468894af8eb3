"""The page that takes a student to mmdet, on images of toy size."""
import re
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from tests.toys import needs_mmdet  # noqa: F401
from tests.toys.coco import CLASSES, write_coco
from tests.toys.hosted_students import write_student
from tests.toys.models import ROOT
from tests.toys.runs import launch

EXAMPLE = ROOT / 'examples' / 'student_into_mmdet.py'
RESNET = dict(type='ResNet', depth=50, out_indices=[0, 1, 2, 3])


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp('coco') / 'shapes')


def command(coco, checkpoint, out, *options):
    return [
        sys.executable, EXAMPLE, checkpoint, '--images', coco / 'images',
        '--annotations', coco / 'shapes.json', '--size', '96', '--out', out,
        *options
    ]


@pytest.mark.slow
def test_a_resnet_in_the_stock_faster_rcnn(coco, tmp_path):
    student = write_student(tmp_path / 'epoch_100.pth', RESNET)
    out = tmp_path / 'out'
    said = launch(
        command(coco, tmp_path / 'epoch_100.pth', out, '--iterations', '4'),
        tmp_path, PYTHONPATH=str(ROOT))
    assert 'All 318 backbone tensors arrived (0 resized).' in said
    first, last = map(float, re.search(
        r'Loss: ([\d.]+) in the first iteration, ([\d.]+) in the last',
        said).groups())
    assert 0 < first < 100 and 0 < last < 100

    cfg = Config.fromfile(out / 'config.py')
    # For 2 images a batch; the stock config has 0.02 for 16.
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(0.0025)
    assert cfg.model.roi_head.bbox_head.num_classes == 3
    state = torch.load(out / 'iter_4.pth', weights_only=False)['state_dict']
    # The stem is frozen in the stock config: it is the student's. The last
    # stage has been trained.
    weights = student.state_dict()
    assert torch.equal(state['backbone.conv1.weight'],
                       weights['conv1.weight'])
    name = 'layer4.2.conv3.weight'
    assert not torch.equal(state[f'backbone.{name}'], weights[name])
    torch.testing.assert_close(state[f'backbone.{name}'], weights[name],
                               rtol=0, atol=0.1)

    # Ten boxes at most, the most certain first, inside the image.
    boxes = re.findall(
        r'^([01]\.\d{3}) (\w+) +' + r' +'.join([r'(-?[\d.]+)'] * 4) + '$',
        said, re.MULTILINE)
    assert 0 < len(boxes) <= 10
    scores = [float(box[0]) for box in boxes]
    assert scores == sorted(scores, reverse=True)
    for _, label, *edges in boxes:
        left, top, right, bottom = map(float, edges)
        assert label in CLASSES
        assert 0 <= left <= right <= 128 and 0 <= top <= bottom <= 96
    picture = cv2.imread(str(out / 'detections.png'))
    image = cv2.imread(str(coco / 'images' / f'{0:012}.jpg'))
    assert picture.shape == image.shape
    assert 0 < np.mean(np.any(picture != image, axis=-1)) < 1


@pytest.mark.slow
def test_a_vit_in_its_own_config(coco, tmp_path):
    """The line of its docstring, from the root of the repository."""
    student = write_student(
        tmp_path / 'epoch_100.pth',
        dict(type='MAEViT', arch='deit-s', patch_size=16))
    out = tmp_path / 'out'
    said = launch(
        command(coco, tmp_path / 'epoch_100.pth', out, '--config',
                'configs/detection/vit-s_faster-rcnn_coco.py', '--iterations',
                '2'), ROOT, PYTHONPATH=str(ROOT))
    assert 'All 150 backbone tensors arrived (0 resized).' in said
    cfg = Config.fromfile(out / 'config.py')
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(1e-4 * 2 / 16)
    state = torch.load(out / 'iter_2.pth', weights_only=False)['state_dict']
    weight = student.state_dict()['layers.0.attn.qkv.weight']
    moved = (state['backbone.layers.0.attn.qkv.weight'] - weight).abs().max()
    # AdamW moves a weight by its rate at most, here after warm-up and decay
    # of layers.
    assert 0 < moved < 1e-4
    assert cv2.imread(str(out / 'detections.png')).shape == (96, 128, 3)


@pytest.mark.slow
def test_another_depth_is_refused_before_the_training(coco, tmp_path):
    write_student(tmp_path / 'epoch_100.pth', dict(RESNET, depth=18))
    with pytest.raises(AssertionError) as error:
        launch(command(coco, tmp_path / 'epoch_100.pth', tmp_path / 'out'),
               tmp_path, PYTHONPATH=str(ROOT))
    assert 'backbone tensors arrived' in str(error.value)
    assert 'error: ' in str(error.value)
    assert not list((tmp_path / 'out').glob('*.pth'))
