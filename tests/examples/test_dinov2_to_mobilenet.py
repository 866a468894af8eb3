"""The page that distils and uses a MobileNet, at toy size."""
import json
import re
import sys
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from tests.toys import needs_report  # noqa: F401
from tests.toys.folders import write_classes
from tests.toys.models import ROOT
from tests.toys.runs import launch

EXAMPLE = ROOT / 'examples' / 'dinov2_to_mobilenet.py'
NAME = 'mobilenetv3_small_050'


@pytest.mark.slow
def test_nearest_images_of_a_distilled_mobilenet(tmp_path):
    images = Path(write_classes(tmp_path / 'images', 3, 5, 0))
    labels = write_classes(tmp_path / 'labels', 3, 4, 1)
    (images / 'broken.png').write_bytes(b'no image')
    torch.manual_seed(0)
    teacher = tmp_path / 'teacher.pth'
    torch.save(timm.create_model('test_vit3').state_dict(), teacher)
    command = [
        sys.executable, EXAMPLE, images, '--labels', labels, '--teacher',
        f'test_vit3={teacher}', '--student', NAME, '--size', '64', '--epochs',
        '1', '--query', '2', '--out', 'out'
    ]
    said = launch(command, tmp_path, PYTHONPATH=str(ROOT))
    out = tmp_path / 'out'
    assert f'Left out: {images / "broken.png"}' in said
    rows = json.loads((out / 'evaluation.json').read_text())['rows']
    assert len(rows) == 3
    for row in rows:
        assert (f"{row['name']}: kNN {row['knn']:.2f}, "
                f"linear {row['linear']:.2f}") in said

    # The neighbours once more, by the printed lines.
    printed = re.search(r'^import timm\n(.*\n)*?transform = .*\n', said,
                        re.MULTILINE)
    names = {}
    exec(printed[0].replace("'out/", f"'{out}/"), names)
    paths = sorted(images.rglob('*.png'))[1:]  # broken.png is the first
    with torch.no_grad():
        maps = names['student'].forward_features(torch.stack([
            names['transform'](Image.open(path)) for path in paths]))
    assert maps.shape == (15, 288, 2, 2)
    similar = torch.nn.functional.cosine_similarity(
        maps.mean((2, 3)), maps.mean((2, 3))[1:2])  # image 2 of all files
    similar[1] = -2
    values, order = similar.topk(5)
    found = re.findall(r'^(\d\.\d{4})  (.*)$', said, re.MULTILINE)
    assert [path for _, path in found] == [str(paths[i]) for i in order]
    assert [float(value) for value, _ in found] == pytest.approx(
        values.tolist(), abs=2e-4)
    assert Image.open(out / 'neighbours.png').size == (1200, 260)

    # The same command again trains nothing, and finds the same.
    again = launch(command, tmp_path, PYTHONPATH=str(ROOT))
    assert 'the training is finished' in again
    assert re.findall(r'^(\d\.\d{4})  (.*)$', again, re.MULTILINE) == found
