# A student as large as the paper's largest teacher, ViT-L, learns from ViT-H,
# both sharded over 16 GPUs: 16 x 64 images x 4 accumulated batches.
_base_ = [
    '../dmae/vit-b_dmae-teacher-h_in1k.py',
    '../_base_/fsdp.py',
]

model = dict(backbone=dict(arch='l'), neck=dict(embed_dim=1024))

train_dataloader = dict(batch_size=64)

optim_wrapper = dict(type='OptimWrapper')
