# Fine-tune a pre-trained ViT-S on 10 percent of ImageNet's labels, 128
# images of each class, chosen by
#     python tools/make_subset.py data/imagenet/train \
#         data/imagenet/train_10pct.txt --percent 10
# Needs --cfg-options model.backbone.init_cfg.checkpoint=/path/of/epoch_100.pth
# Our choice, not the paper's: schedule and batch size are those for all
# labels, which makes 12,500 steps of 1024 images.
_base_ = './vit-s_finetune_in1k.py'

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='ImageSubset',
        data_root='data/imagenet',
        data_prefix='train',
        ann_file='train_10pct.txt',
        pipeline={{_base_.train_pipeline}}))
