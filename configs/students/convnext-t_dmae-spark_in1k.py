# ConvNeXt-T learns as in SparK and from the ViT-B of MAE.
_base_ = './resnet50_dmae-spark_in1k.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='SparseConvNeXt',
        arch='tiny',
        drop_path_rate=0.2,
        out_indices=(0, 1, 2, 3),
        gap_before_output=False),
    enc_dec_norm_cfg=dict(type='SparseLN2d', eps=1e-6))
