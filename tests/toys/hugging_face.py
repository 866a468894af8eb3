"""Toy models of Hugging Face transformers, and how the golden ones of
``tests/data/hugging_face`` were written.

mmpretrain cannot be imported beside transformers 5 where pycocotools is
installed, so transformers lies elsewhere:

    pip install --target /tmp/elsewhere transformers==5.24.0
    PYTHONPATH=/tmp/elsewhere:. python -m tests.toys.hugging_face
"""
import json
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parents[1] / 'data' / 'hugging_face'
SMALL = dict(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    image_size=16,
    patch_size=4)
TEXT = dict(
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=8,
    vocab_size=9,
    max_position_embeddings=4)
DINOV2 = {key: SMALL[key] for key in SMALL if key != 'intermediate_size'}
DECODER = dict(
    decoder_hidden_size=16,
    decoder_num_hidden_layers=1,
    decoder_num_attention_heads=2,
    decoder_intermediate_size=8)
DINOV3 = dict(SMALL, num_register_tokens=3)
# Class and config of each.
MODELS = {
    'vit': ('ViTModel', 'ViTConfig', SMALL),
    'vit_classifier': ('ViTForImageClassification', 'ViTConfig',
                       dict(SMALL, qkv_bias=False, num_labels=3)),
    'deit': ('DeiTModel', 'DeiTConfig', SMALL),
    'dinov2': ('Dinov2Model', 'Dinov2Config', dict(DINOV2, mlp_ratio=2)),
    'dinov2_swiglu': ('Dinov2ForImageClassification', 'Dinov2Config',
                      dict(DINOV2, mlp_ratio=2, use_swiglu_ffn=True)),
    'dinov2_registers': ('Dinov2WithRegistersModel',
                         'Dinov2WithRegistersConfig',
                         dict(DINOV2, mlp_ratio=2, num_register_tokens=3)),
    'dinov3': ('DINOv3ViTModel', 'DINOv3ViTConfig', DINOV3),
    'dinov3_gated': ('DINOv3ViTModel', 'DINOv3ViTConfig',
                     dict(DINOV3, use_gated_mlp=True, hidden_act='silu',
                          query_bias=False, value_bias=False,
                          proj_bias=False, mlp_bias=False)),
    'vit_mae': ('ViTMAEModel', 'ViTMAEConfig', SMALL),
    'vit_mae_whole': ('ViTMAEForPreTraining', 'ViTMAEConfig',
                      dict(SMALL, **DECODER)),
    'clip_vision': ('CLIPVisionModel', 'CLIPVisionConfig', SMALL),
    'clip': ('CLIPModel', 'CLIPConfig',
             dict(projection_dim=6, vision_config=SMALL, text_config=TEXT)),
    'siglip_vision': ('SiglipVisionModel', 'SiglipVisionConfig', SMALL),
    'siglip': ('SiglipModel', 'SiglipConfig',
               dict(vision_config=SMALL, text_config=TEXT)),
}
PREPROCESSOR = dict(
    do_normalize=True,
    do_rescale=True,
    image_mean=[.5, .25, .125],
    image_std=[.25, .5, .2],
    rescale_factor=1 / 255)


def images():
    """Two, of 16 x 16 px."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, 3, 16, 16, generator=generator)


def make(name):
    """A model with random weights that show every difference: layer norms
    see small variances, where their epsilon matters."""
    import transformers
    model, config, options = MODELS[name]
    torch.manual_seed(0)
    model = getattr(transformers, model)(
        getattr(transformers, config)(**options)).eval()
    for parameter_name, parameter in model.named_parameters():
        if 'norm' in parameter_name and parameter_name.endswith('weight'):
            parameter.data.uniform_(.5, 1.5)
        elif 'embeddings' in parameter_name:
            parameter.data.normal_(std=2e-3)
        else:
            parameter.data.normal_(std=.3)
    return model


def load(name):
    """A golden model."""
    import transformers
    return getattr(transformers,
                   MODELS[name][0]).from_pretrained(GOLDEN / name).eval()


@torch.no_grad()
def features(model):
    """The output of each block, (2, B, N, C)."""
    for inside in ('vit', 'dinov2', 'vision_model'):
        model = getattr(model, inside, model)
    options = {}
    if type(model).__name__ == 'ViTMAEModel':
        # It hides and shuffles patches; equal noise keeps them in order.
        model.config.mask_ratio = 0.
        options['noise'] = torch.arange(16.).expand(2, -1)
    outputs = []
    blocks = next(
        module for name, module in model.named_modules()
        if name.split('.')[-1] in ('layer', 'layers')
        and isinstance(module, torch.nn.ModuleList))
    for block in blocks:
        block.register_forward_hook(lambda module, args, output: outputs.
                                    append(output[0] if isinstance(
                                        output, tuple) else output))
    model(images(), **options)
    return torch.stack(outputs)


def write():
    """All golden files."""
    expected = {}
    for name in MODELS:
        model = make(name)
        folder = GOLDEN / name
        model.save_pretrained(folder)
        (folder / 'preprocessor_config.json').write_text(
            json.dumps(PREPROCESSOR, indent=1) + '\n')
        expected[name] = features(model).numpy()
    np.savez_compressed(GOLDEN / 'features.npz', **expected)


if __name__ == '__main__':
    write()
