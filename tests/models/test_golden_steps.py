"""Training steps of other papers' methods, as a config gives them, to 1e-5.

What a DMAE of such a config computes is what the methods' own code did.
"""
import torch
from mmpretrain.registry import MODELS

from dmae_mm.models import Distillation
from dmae_mm.models.distillations import Distillations
from dmae_mm.models.student import Student
from dmae_mm.models.student_input import StudentInput
from dmae_mm.weights import mae_to_mmpretrain
from tests.toys.golden import assert_golden, read_golden


def side(golden, prefix, leave_out='-'):
    """The weights of one side under MAE's names."""
    return {
        name[len(prefix):]: tensor
        for name, tensor in golden.items()
        if name.startswith(prefix) and leave_out not in name
    }


def arch(options, mlp_ratio=4):
    width = options.get('embed_dim') or options['dim']
    heads = options.get('num_heads') or options['heads']
    return dict(
        embed_dims=width,
        num_layers=options['depth'],
        num_heads=heads,
        feedforward_channels=int(mlp_ratio * width))


def decoder(options):
    return dict(
        type='MAEPretrainDecoder',
        decoder_embed_dim=options['decoder_embed_dim'],
        decoder_depth=options['decoder_depth'],
        decoder_num_heads=options['decoder_num_heads'])


def build(**options):
    model = MODELS.build(dict(type='DMAE', **options))
    model.init_weights()
    return model.train()


def assert_norms(model, wanted):
    """Norms of the gradients; those of keys' biases are 0 but for rounding."""
    ours = {
        name: parameter.grad.norm()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert ours.keys() == wanted.keys()
    for name, norm in wanted.items():
        torch.testing.assert_close(
            ours[name], norm.float(), rtol=1e-5, atol=1e-8, msg=name)


def test_g2sd(tmp_path, monkeypatch):
    """The student's decoder learns from the teacher's, on masked patches."""
    golden, meta = read_golden('g2sd_a')
    file = tmp_path / 'mae.pth'
    torch.save(dict(model=side(golden, 'teacher/')), file)
    learner, teacher = meta['student'], meta['teacher']
    size = dict(img_size=meta['img_size'], patch_size=meta['patch_size'])
    model = build(
        backbone=dict(
            type='MAEViT', arch=arch(learner), mask_ratio=meta['mask_ratio'],
            **size),
        neck=dict(
            decoder(learner), num_patches=16, patch_size=8, embed_dim=24),
        teacher=dict(
            type='MAETeacher',
            backbone=dict(type='MAEViT', arch=arch(teacher), **size),
            neck=decoder(teacher),
            checkpoint=str(file)),
        aligned_layers=[(-1, meta['teacher_decoder_blocks_run'] - 1)],
        distill_neck=dict(type='FeatureProjectionNeck', projector='mlp'),
        distill_loss=dict(
            type='MaskedFeatureLoss',
            positions='all' if meta['all_positions'] else 'masked'))

    def names(tensors):
        """The projector is one for the decoder's features."""
        converted = mae_to_mmpretrain({
            name: tensor
            for name, tensor in tensors.items() if 'feature_pred' not in name
        })
        for layer, number in (('fc1', 0), ('fc2', 2)):
            for kind in ('weight', 'bias'):
                converted[f'distill_neck.projectors.0.{number}.{kind}'] = (
                    tensors[f'decoderfeature_pred.{layer}.{kind}'])
        return converted

    model.load_state_dict(names(side(golden, 'student/')), strict=True)
    monkeypatch.setattr(torch, 'rand', lambda *args, **kw: golden['noise'])
    seen = {}
    model.teacher.register_forward_hook(
        lambda module, args, output: seen.update(feature=output[0]))
    losses = model.loss(golden['images'], None)
    assert list(losses) == ['loss_align_s1_t1']
    assert_golden(losses['loss_align_s1_t1'], golden['loss'])
    losses['loss_align_s1_t1'].backward()
    masked = golden['mask'].bool()
    assert_golden(seen['feature'][:, 1:][masked],
                  golden['teacher_decoder_feature'])
    assert_norms(model, names(side(golden, 'grad_norm/')))


def test_tinymim(tmp_path):
    """Relations of the last block, of four heads, on all patches."""
    golden, meta = read_golden('tinymim_model_a')
    file = tmp_path / 'vit.pth'
    # Behind the tapped block the file has none; the config says so.
    torch.save(dict(model=side(golden, 'teacher.')), file)
    learner, teacher = meta['student'], meta['teacher']
    tapped = teacher['distilled_block_1based'] - 1
    size = dict(img_size=meta['img'], patch_size=meta['patch'])
    model = build(
        backbone=dict(
            type='MAEViT', arch=arch(learner, learner['mlp_ratio']),
            mask_ratio=0,
            layer_cfgs=[dict()] * 11 +
            [dict(num_heads=learner['last_block_heads'])],
            **size),
        teacher=dict(
            type='MMPretrainTeacher',
            backbone=dict(
                type='MAEViT',
                arch=arch(dict(teacher, depth=tapped + 1),
                          teacher['mlp_ratio']),
                **size),
            checkpoint=str(file)),
        aligned_layers=[(-1, tapped)],
        distill_loss=dict(type='QKVRelationLoss'))
    assert model.backbone.layers[-1].attn.num_heads == 4
    assert model.distill_loss.num_heads == teacher['heads']
    model.load_state_dict(
        mae_to_mmpretrain(side(golden, 'student.')), strict=True)
    # There, the student's images are the teacher's with other colours.
    model.teacher.image_matcher.forward = (
        lambda *args: golden['images_teacher'])
    losses = model.loss(golden['images_student'], None)
    assert_golden(losses['loss_align_s11_t3'], golden['loss_total'])
    losses['loss_align_s11_t3'].backward()

    frozen = {
        name for name, p in model.backbone.named_parameters()
        if not p.requires_grad
    }
    unreached = mae_to_mmpretrain(
        dict.fromkeys(meta['params_without_grad'], 0))
    assert {f'backbone.{name}' for name in frozen} == {
        *unreached, 'backbone.pos_embed'}
    largest = max(tensor.abs().max() for tensor in side(
        golden, 'grad.student.').values())
    parameters = dict(model.named_parameters())
    for name, wanted in mae_to_mmpretrain(
            side(golden, 'grad.student.')).items():
        torch.testing.assert_close(
            parameters[name].grad, wanted, rtol=1e-5,
            atol=1e-6 * largest.item(), msg=name)


class Given(torch.nn.Module):
    """Stands for a teacher whose features are in the file."""

    def __init__(self, features, has_cls, aligned_blocks, student_input):
        super().__init__()
        self.features = features
        self.embed_dims = features[0].shape[-1]
        self.has_cls_token = has_cls
        self.num_prefix_tokens = int(has_cls)
        self.patch_grid = (4, 4)
        self.aligned_blocks = aligned_blocks

    def forward(self, images, ids_keep=None):
        return tuple(self.features)


def student(width, has_cls=False, grid=None, visible=None, num_blocks=1):
    """One whose features are in the file as well."""
    return Student(
        StudentInput(None, grid, 3),
        dict(block=[torch.nn.Linear(1, 1) for _ in range(num_blocks)]),
        dict(block=width),
        num_prefix_tokens=int(has_cls),
        has_cls_token=has_cls,
        num_patches=grid and grid[0] * grid[1],
        num_visible=visible)


IDENTITY = dict(type='FeatureProjectionNeck', projector='identity')
UNIC = dict(
    type='FeatureAlignmentLoss',
    criterion=dict(cosine=0.5, smooth_L1=0.5),
    normalize=False,
    beta=1.0,
    cls_weight=0.5)


def test_unic():
    """Two teachers; of each image the losses that are kept."""
    golden, meta = read_golden('unic_a')
    assert (meta['weights'], meta['beta']) == (UNIC['criterion'], UNIC['beta'])
    names = meta['teachers']
    leaves = {
        name: tensor.requires_grad_()
        for name, tensor in golden.items() if name.startswith('student/')
    }

    def tokens(owner, name, image):
        return torch.cat([
            golden[f'{owner}/{name}/cls'][image, None],
            golden[f'{owner}/{name}/patch'][image]
        ])[None]

    total = 0
    for image in range(len(golden['keep'])):
        distillations = Distillations(
            student(16, has_cls=True), {
                name: dict(
                    teacher=dict(
                        type=Given, has_cls=True,
                        features=[tokens('teacher', name, image)]),
                    aligned_layers=[(0, 0)],
                    distill_neck=IDENTITY,
                    distill_loss=UNIC)
                for name in names
            })
        losses = distillations.losses(
            None, [[tokens('student', name, image)] for name in names])
        for index, name in enumerate(names):
            loss = losses[f'loss_align_{name}_s0_t0']
            assert_golden(loss, golden[f'loss_per_image/{name}'][image])
            # (teacher, image) in the file.
            total = total + golden['keep'][index, image] * loss
    loss = total / golden['keep'].sum()
    assert_golden(loss, golden['loss'])
    loss.backward()
    for name, leaf in leaves.items():
        assert_golden(leaf.grad, golden[name.replace('student', 'grad')])


def test_unic_with_standardised_targets():
    """Three steps: running statistics are used, and then updated."""
    golden, meta = read_golden('unic_standardise_a')

    def tokens(kind, name):
        key = f'step{step}.{kind}.{name}'
        return torch.cat([golden[f'{key}.cls'].unsqueeze(1),
                          golden[f'{key}.patch']], dim=1)

    distillations = Distillations(
        student(24, has_cls=True), {
            name: dict(
                teacher=dict(
                    type=Given, has_cls=True,
                    features=[torch.empty(1, 1, width)]),
                aligned_layers=[(0, 0)],
                distill_neck=dict(type=Projected),
                distill_loss=UNIC,
                target=dict(type='Standardize', momentum=0.5))
            for name, width in meta['teacher_dims'].items()
        })
    for step, momentum in enumerate(meta['ema_momenta']):
        ours = []
        for name, part in distillations.by_name.items():
            part.teacher.features = [tokens('teacher_raw', name)]
            part.targets[0].momentum = momentum
            ours.append([tokens('student', name).requires_grad_()])
        losses = distillations.losses(None, ours)
        wanted = golden[f'step{step}.loss_per_teacher_per_image']
        for name, of_images in zip(meta['teacher_row_order'], wanted):
            assert_golden(losses[f'loss_align_{name}_s0_t0'],
                          of_images.mean())


class Projected(torch.nn.Module):
    """The file's features are projected ones, of several widths."""

    def __init__(self, student_dims, teacher_dims, num_pairs):
        super().__init__()

    def forward(self, features):
        return features


def test_amd():
    """Direct and generative terms, averaged over two pairs."""
    golden, meta = read_golden('amd_feat_a')
    visible, extra = meta['n_visible'], meta['n_diff']
    pairs = range(meta['n_layers'])
    leaves = {
        name: golden[name].requires_grad_()
        for pair in pairs
        for name in (f'student_dir.{pair}', f'student_gen.{pair}')
    }
    part = Distillation(
        student(
            meta['dim'],
            grid=(2, (visible + extra) // 2),
            visible=visible,
            num_blocks=2),
        teacher=dict(
            type=Given,
            has_cls=False,
            features=[
                torch.cat([golden[f'teacher_{term}.{pair}']
                           for term in ('dir', 'gen')], dim=1)
                for pair in pairs
            ]),
        aligned_layers=[(pair, pair) for pair in pairs],
        distill_neck=IDENTITY,
        distill_loss=dict(
            type='FeatureAlignmentLoss', criterion='L2', normalize=False,
            loss_weight=1 / len(pairs)),
        mask_ratio=0.0,
        generator=dict(type='FeatureGenerationNeck'))
    # What the blocks of the generator return is in the file.
    for pair, generator in enumerate(part.generators):
        generator.forward = lambda *args, pair=pair: (
            leaves[f'student_gen.{pair}'])
    losses = part.losses(
        torch.empty(2, 3, 1, 1),
        [leaves[f'student_dir.{pair}'] for pair in pairs],
        torch.arange(visible + extra).expand(2, -1), visible)
    assert list(losses) == [
        'loss_align_s0_t0', 'loss_align_s1_t1', 'loss_generate_s0_t0',
        'loss_generate_s1_t1']
    assert_golden(losses['loss_align_s0_t0'] + losses['loss_align_s1_t1'],
                  golden['loss_dir'])
    assert_golden(
        losses['loss_generate_s0_t0'] + losses['loss_generate_s1_t1'],
        golden['loss_gen'])
    sum(losses.values()).backward()
    for name, leaf in leaves.items():
        assert_golden(leaf.grad, golden[f'grad_{name}'])


def test_token_relations():
    golden, meta = read_golden('token_relation_a')
    tokens = golden['student_tokens'].requires_grad_()
    part = Distillation(
        student(12, grid=(3, 3), visible=9),
        teacher=dict(
            type=Given, has_cls=False, features=[golden['teacher_tokens']]),
        aligned_layers=[(0, 0)],
        distill_loss=dict(
            type='TokenRelationLoss', temperature=meta['temperature']))
    loss, = part.losses(torch.empty(2, 3, 1, 1), [tokens]).values()
    assert_golden(loss, golden['loss'])
    loss.backward()
    assert_golden(tokens.grad, golden['grad_student_tokens'])
