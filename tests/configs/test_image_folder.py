"""Pre-training on any folder of images."""
import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

from tests.toys.recipes import CONFIGS


def test_any_folder_of_images(tmp_path):
    """One option switches the folder; layout and most formats are free."""
    red = np.zeros((300, 300, 3), np.uint8)
    red[..., 2] = 255  # OpenCV writes BGR
    names = [
        'a.png', 'b/c.JPEG', 'b/d/e.jpg', 'f.webp', 'f.tif', 'g.tiff', 'h.bmp',
        'i.ppm'
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(tmp_path / name), red)
    (tmp_path / 'notes.txt').write_text('not an image')

    cfg = Config.fromfile(CONFIGS / 'dmae/vit-s_dmae_in1k.py')
    assert cfg.train_dataloader.dataset.data_root == 'data/imagenet/train'
    cfg.merge_from_dict({
        'train_dataloader.dataset.data_root': str(tmp_path),
        'train_dataloader.num_workers': 1
    })
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    batch, = loader  # fewer images than a batch are one batch
    assert batch['inputs'].shape == (8, 3, 224, 224)
    images = MODELS.build(cfg.data_preprocessor)(batch)['inputs']
    # (255 - 123.675) / 58.395 and (0 - mean) / std, in the order RGB; JPEG
    # and WebP keep the colour to one or two of 255.
    for channel, value in enumerate((2.249, -2.036, -1.804)):
        assert images[:, channel].mean(
            (1, 2)).tolist() == pytest.approx([value] * 8, abs=0.04)


def test_missing_folder_is_named(tmp_path):
    cfg = Config.fromfile(CONFIGS / 'dmae/vit-s_dmae_in1k.py')
    cfg.train_dataloader.dataset.data_root = str(tmp_path / 'nowhere')
    with pytest.raises(FileNotFoundError, match='nowhere'):
        Runner.build_dataloader(cfg.train_dataloader)
