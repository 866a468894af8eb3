# Fine-tune a pre-trained ViT-S on 1 percent of ImageNet's labels, 13 images
# of each class, chosen by
#     python tools/make_subset.py data/imagenet/train \
#         data/imagenet/train_1pct.txt --percent 1
# Needs --cfg-options model.backbone.init_cfg.checkpoint=/path/of/epoch_100.pth
_base_ = './vit-s_finetune-10pct_in1k.py'

# Our choice, not the paper's: 256 images a step instead of 1024 (8 GPUs x 32),
# and the learning rate in proportion, so that 100 epochs are 5,100 steps and
# not 1,300. The validation images are four times as many as the training
# images, so that they are looked at every tenth epoch.
train_dataloader = dict(
    batch_size=32, dataset=dict(ann_file='train_1pct.txt'))
optim_wrapper = dict(optimizer=dict(lr=5e-4))
auto_scale_lr = dict(base_batch_size=256)
train_cfg = dict(val_interval=10)
