"""Reproduce a row of the paper: ViT-S, taught by MAE's ViT-B.

    python examples/a_row_of_the_paper.py --plan    # costs; trains nothing
    python examples/a_row_of_the_paper.py --gpus 8
    python examples/a_row_of_the_paper.py --epochs 2 --images 2000 --size 96

Run it from the root of a clone of dmae_mm. IMAGENET has train/CLASS/*.JPEG and
val/CLASS/*.JPEG. The last line is a rehearsal: all steps, no result to compare
with the paper. The same command again goes on where it was interrupted.
"""
# %% [markdown]
# ## What is compared
#
# A student that DMAE has pre-trained, and the control: the same student with
# the same schedule, without a teacher. Both are then fine-tuned alike.

# %%
import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

from mmengine.config import Config

from dmae_mm.launch import set_epochs

if not Path('studies/recipes_page.py').is_file():
    sys.exit('Run this from the root of a clone of dmae_mm.')
sys.path.insert(0, 'studies')
from recipes_page import PAGE, read_page  # noqa: E402

PRETRAIN = {'DMAE': 'dmae/vit-s_dmae', 'plain MAE': 'baselines/vit-s_mae'}
FINETUNE = 'benchmarks/vit-s_finetune'

parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
parser.add_argument('--imagenet', default='data/imagenet')
parser.add_argument('--teacher', metavar='FILE', help="MAE's ViT-B, if it is "
                    'not to be downloaded')
parser.add_argument('--gpus', type=int, default=1)
parser.add_argument('--epochs', type=int, default=100, help='of each stage')
parser.add_argument('--images', type=int, help='default: all 1,281,167')
parser.add_argument('--size', type=int, default=224, help='in pixels')
parser.add_argument('--plan', action='store_true', help='train nothing')
parser.add_argument('--out', default='work_dirs/a_row_of_the_paper')
args = parser.parse_args([] if 'get_ipython' in globals() else None)
if args.size % 16 or args.size < 32:
    parser.error(f'--size {args.size} is no multiple of 16 from 32 on.')
is_rehearsal = (args.epochs, args.images, args.size) != (100, None, 224)

# %% [markdown]
# ## What it costs
#
# By docs/recipes.md: counted FLOPs, divided by an assumed 100 TFLOP/s. Nothing
# was measured. A rehearsal costs its share of epochs, images and pixels,
# starting and validating aside.

# %%
rows = read_page(PAGE.read_text())
share = (args.epochs / 100 * (args.images or 1281167) / 1281167 *
         (args.size / 224)**2)
total = 0
for recipe in (*PRETRAIN.values(), FINETUNE, FINETUNE):
    hours = share * float(rows[Path(recipe).name].cells['GPU-hours'])
    total += hours
    print(f'{recipe:28}{hours:10.3f} GPU-hours')
print(f'{"Together":28}{total:10.3f} GPU-hours, about {total / args.gpus:.3f} '
      f'hours on {args.gpus} GPU{"s" * (args.gpus > 1)}')
if args.plan:
    sys.exit()


# %% [markdown]
# ## The configs
#
# They are the recipes, for this machine and these images. A step has as many
# images as in the paper, whatever the number of GPUs: batches of several
# iterations are accumulated. A rehearsal has few images and accumulates none;
# the learning rate then follows (`--auto-scale-lr`, below).


# %%
def adapted(recipe, name):
    """The config of a recipe, to be trained in OUT/NAME."""
    cfg = Config.fromfile(f'configs/{recipe}_in1k.py')
    cfg.work_dir = f'{args.out}/{name}'
    set_epochs(cfg, args.epochs)
    images = args.gpus * cfg.train_dataloader.batch_size
    cfg.optim_wrapper.accumulative_counts = 1 if is_rehearsal else max(
        1, cfg.auto_scale_lr.base_batch_size // images)
    cfg.model.backbone.img_size = args.size
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if loader in cfg:  # pre-training has the first alone
            adapt_data(cfg[loader].dataset, loader.startswith('train'))
    return cfg


def adapt_data(dataset, is_train):
    for step in dataset.pipeline:
        for key in {'scale', 'crop_size'} & set(step):
            step[key] = step[key] * args.size // 224
    # mmpretrain's ImageNet finds `train` and `val` itself.
    folder = f'{args.imagenet}/{"train" if is_train else "val"}'
    dataset.data_root = args.imagenet if 'split' in dataset else folder
    if args.images:
        dataset.type, dataset.num_images = 'SpreadImages', args.images
        dataset.data_root = folder
        dataset.pop('split', None)


# %% [markdown]
# ## Pre-train, fine-tune, test
#
# Each stage is a command of this repository. It is printed, and its config
# lies beside its work dir, to be read, changed and run by hand.


# %%
def write(cfg):
    """Write a config beside its work dir; the file."""
    path = Path(f'{cfg.work_dir}.py')
    if path.exists() and path.read_text() != cfg.pretty_text:
        sys.exit(f'{path} is of a run with other options. Give these, or '
                 'another --out.')
    path.parent.mkdir(parents=True, exist_ok=True)
    cfg.dump(path)
    return str(path)


def run(*command):
    print(f'\n$ {shlex.join(command)}', flush=True)
    if subprocess.run(command).returncode:
        sys.exit('This stage has failed. Once that is mended, the same '
                 'command goes on.')


def train(cfg):
    """Train, unless that was done; the last checkpoint."""
    config, options = write(cfg), ('--auto-scale-lr', '--resume')
    last = f'{cfg.work_dir}/epoch_{args.epochs}.pth'
    if Path(last).exists():
        print(f'\n{last} is there.')
    elif args.gpus > 1:
        run('bash', 'tools/dist_train.sh', config, str(args.gpus), *options)
    else:
        run(sys.executable, 'tools/train.py', config, *options)
    return last


def test(cfg, classifier):
    """Test, unless that was done; the accuracy in percent."""
    result = Path(cfg.work_dir, 'test.json')
    if not result.exists():
        run(sys.executable, 'tools/test.py', write(cfg), classifier, '--out',
            str(result), '--out-item', 'metrics')
    return json.loads(result.read_text())['accuracy/top1']


accuracies = {}
for name, recipe in PRETRAIN.items():
    cfg = adapted(recipe, Path(recipe).name)
    cfg.model.neck.num_patches = (args.size // 16)**2
    if args.teacher and cfg.model.teacher:
        cfg.model.teacher.checkpoint = args.teacher
    student = train(cfg)

    cfg = adapted(FINETUNE, f'{Path(recipe).name}_finetune')
    cfg.model.backbone.init_cfg.checkpoint = student
    accuracies[name] = test(cfg, train(cfg))

# %% [markdown]
# ## The row

# %%
print('\nImageNet-1k top-1 in percent, ViT-S after fine-tuning\n\n'
      '| pre-training | ours | published |\n| --- | ---: | ---: |')
for name, accuracy in accuracies.items():
    published = rows[Path(PRETRAIN[name]).name].cells.get('published', '')
    print(f'| {name} | {accuracy:.2f} | {published} |')
if is_rehearsal:
    print(f'\nA rehearsal: {args.epochs} epochs, {args.images or "all"} '
          f'images, {args.size} px. It is not to be compared.')
