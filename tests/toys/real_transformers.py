"""Hugging Face transformers themselves, beside the environment of the tests:
mmpretrain cannot be imported with them where pycocotools is installed."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

VERSION = '5.24.0'
# Run with PYTHONPATH; mmpretrain is not imported.
_LOAD = '''
import sys
import numpy as np, torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel
torch.set_num_threads(1)
for folder in sys.argv[2:]:
    model, found = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not found['missing_keys'] and not found['unexpected_keys'], found
    processor = AutoImageProcessor.from_pretrained(folder)
    image = Image.open(sys.argv[1])
    if model.config.to_dict().get('num_channels') == 1:
        image = image.convert('L')
    pixels = processor(image, return_tensors='pt')['pixel_values']
    with torch.no_grad():
        output = model.eval()(pixels)
    last = output.last_hidden_state
    maps = isinstance(last, (list, tuple))
    found = dict(pixels=pixels, last=last[-1] if maps else last)
    if not maps:
        found['pooled'] = output.pooler_output
    np.savez(folder + '.npz', kind=type(model).__name__,
             **{name: value.numpy() for name, value in found.items()})
'''


def install(folder: Path) -> str:
    """Install them into a folder; without a network, the test is skipped.

    Returns:
        str: The folder.
    """
    # The rest of what they need is there; huggingface_hub, which timm needs.
    done = subprocess.run(
        [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps',
         '--target', str(folder), f'transformers=={VERSION}', 'tokenizers',
         'regex', 'pyyaml'], capture_output=True, text=True)
    if done.returncode:
        pytest.skip('pip cannot fetch transformers: '
                    f'{done.stderr.strip().splitlines()[-1]}')
    return str(folder)


def load(where: str, picture: Path, *folders: Path) -> None:
    """Load folders and run a picture, all written to ``FOLDER.npz``."""
    done = subprocess.run(
        [sys.executable, '-c', _LOAD, str(picture), *map(str, folders)],
        env=dict(os.environ, PYTHONPATH=where, HF_HUB_OFFLINE='1'),
        cwd=where, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
