"""Distil DINOv2 into a MobileNet, and find similar images with it.

    python examples/dinov2_to_mobilenet.py IMAGES --labels LABELLED
    python examples/dinov2_to_mobilenet.py IMAGES --quick    # a rehearsal

No image of IMAGES needs a label. Editors and Jupytext open this file as a
notebook; there, the defaults of the first cell are taken: change them.
"""
# %% [markdown]
# ## What is asked for
#
# A folder of images, a teacher, a student. The images of LABELLED, one
# sub-folder a class, tell how good the student is; nothing learns from them
# before that.

# %%
import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image

from dmae_mm import distill
from dmae_mm.datasets import EXTENSIONS

parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
parser.add_argument('images', nargs='?', default='IMAGES')
parser.add_argument('--labels', help='images in one sub-folder a class')
parser.add_argument('--teacher', default='vit_base_patch14_dinov2.lvd142m',
                    help='name of timm, or NAME=FILE')
parser.add_argument('--student', default='mobilenetv3_small_100',
                    help='name of timm')
parser.add_argument('--size', type=int, help="default: the student's own")
parser.add_argument('--epochs', type=int, help='default: by their number')
parser.add_argument('--quick', action='store_true', help='rehearse')
parser.add_argument('--query', type=int, default=0, metavar='N',
                    help='number of the image that others are compared with')
parser.add_argument('--out', default='work_dirs/dinov2_to_mobilenet')
args = parser.parse_args([] if 'get_ipython' in globals() else None)

# %% [markdown]
# ## Distil
#
# One call looks at the images, derives a config, checks it, trains, evaluates
# and exports. Called again, it goes on with what was interrupted; when all is
# there, it trains nothing.

# %%
result = distill(
    args.images, args.teacher, args.student, labels=args.labels,
    size=args.size, epochs=args.epochs, quick=args.quick, out=args.out)
for row in (result.evaluation or {'rows': []})['rows']:
    print(f"{row['name']}: kNN {row['knn']:.2f}, linear {row['linear']:.2f}")

# %% [markdown]
# ## Load the student in timm
#
# The result has the lines of Python that do it, with the mean, std and size of
# the training. Of a PIL `image`, they make `student`, `transform` and
# `features`. Elsewhere, copy them.

# %%
if 'timm' not in result.usage:
    raise SystemExit(f'timm cannot build {args.student}: take a name of timm.')
files = sorted(path for path in Path(args.images).rglob('*')
               if path.suffix.lower() in EXTENSIONS)
files = files[:1000]  # enough for a picture
if not 0 <= args.query < len(files):
    raise SystemExit(f'--query {args.query}: there are the images 0 to '
                     f'{len(files) - 1}.')
print(result.usage['timm'])
names = dict(image=Image.open(files[args.query]).convert('RGB'))
exec(result.usage['timm'], names)
student, transform = names['student'], names['transform']

# %% [markdown]
# ## Use it
#
# The mean of the last map describes an image. The cosine of two descriptions
# says how similar the images are.


# %%
def describe(path):
    """(C, ) of a file; None where it cannot be read."""
    try:
        image = Image.open(path).convert('RGB')
    except OSError as error:
        print(f'Left out: {path} ({error})')
        return None
    with torch.inference_mode():
        features = student.forward_features(transform(image)[None])
        if features.dim() == 3:  # (B, N, C) of a ViT
            features = features[:, student.num_prefix_tokens:].mean(1)
        elif features.shape[1] == student.num_features:  # (B, C, h, w)
            features = features.mean((2, 3))
        else:  # (B, h, w, C) of a Swin
            features = features.mean((1, 2))
    return torch.nn.functional.normalize(features[0], dim=0)


described = {path: describe(path) for path in files}
described = {path: one for path, one in described.items() if one is not None}
query = described[files[args.query]]
similarity = {path: float(one @ query) for path, one in described.items()}
nearest = sorted(similarity, key=similarity.get, reverse=True)
# Itself is the most similar of all.
nearest = [path for path in nearest if path != files[args.query]][:5]

# %%
print(f'Nearest to {files[args.query]}:')
figure = Figure(figsize=(12, 2.6), layout='constrained')
panels = figure.subplots(1, 1 + len(nearest), squeeze=False)[0]
for panel, path in zip(panels, [files[args.query], *nearest]):
    panel.imshow(Image.open(path).convert('RGB'))
    panel.set_title('query' if path == files[args.query] else
                    f'{similarity[path]:.3f}')
    panel.axis('off')
for path in nearest:
    print(f'{similarity[path]:.4f}  {path}')
figure.savefig(Path(args.out) / 'neighbours.png', dpi=100)
print(f'Picture: {Path(args.out) / "neighbours.png"}')
