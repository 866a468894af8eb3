"""How a recipe is trained with so many images, on this machine."""
from typing import List, Optional, Tuple

from mmengine.config import Config

from dmae_mm.host import quietly
from dmae_mm.launch.cpu import adapt_to_cpu
from dmae_mm.launch.learning_rate import scale_learning_rate
from dmae_mm.launch.recipe_length import set_epochs

from .machine import Machine

# Optimizer steps that an epoch has at least, where there are enough images.
STEPS_AN_EPOCH = 10
SMALLEST_STEP = 8  # images
# Images of 224 px, and of a student of at most a ViT-B's size, that fit into
# a GiB of a GPU, in 16 bits, and of a machine without, in 32.
IMAGES_A_GIB, PIXELS, VIT_B = {True: 8, False: 4}, 224**2, 86e6
# Images at once for each core, so that a CPU shows progress.
IMAGES_A_CORE = 16
QUICK_EPOCHS = 3
# Iterations between checkpoints, at least, with a GPU and without: minutes.
# And checkpoints, at least.
ITERATIONS_BETWEEN, CHECKPOINTS = {True: 500, False: 100}, 5
# A step of so many times fewer images than the recipe's is a small one.
SMALL_STEP = 4
LOGGED_LINES = 5  # an epoch


def choose_schedule(cfg: Config, num_images: int, epochs: Optional[int],
                    quick: bool, machine: Machine, size: int, learnt: int,
                    frozen: int) -> List[str]:
    """Write batches, epochs, learning rate, workers and precision.

    Args:
        cfg (Config): A recipe for a machine with GPUs; is changed.
        num_images (int): Of an epoch.
        epochs (int, optional): None: the recipe's, or fewer if ``quick``.
        quick (bool): Whether it is a rehearsal.
        machine (Machine): This one.
        size (int): Height and width of the student's images.
        learnt (int): Parameters of the student.
        frozen (int): Parameters of all teachers.

    Returns:
        list[str]: A reason for each choice.
    """
    return [
        *_precision(cfg, machine),
        *_batches(cfg, num_images, machine, size, learnt, frozen),
        *_learning_rate(cfg),
        *_epochs(cfg, epochs, quick),
        *_workers(cfg, machine),
        *_intervals(cfg, num_images, machine.accelerator),
    ]


def _precision(cfg: Config, machine: Machine) -> List[str]:
    if not machine.accelerator:
        cfg.launcher = 'none'
        with quietly():
            adapt_to_cpu(cfg)
        cfg.pop('launcher')
        return ['precision float32: there is no GPU']
    if machine.bfloat16:
        cfg.optim_wrapper.dtype = 'bfloat16'
        return ['precision bfloat16: the GPU has it']
    return ['precision float16, with loss scaling: the GPU has no bfloat16']


def _batches(cfg: Config, num_images: int, machine: Machine, size: int,
             learnt: int, frozen: int) -> List[str]:
    meant = cfg.auto_scale_lr.base_batch_size
    enough = max(SMALLEST_STEP, num_images // STEPS_AN_EPOCH)
    step = _power_of_two(min(meant, enough))
    fitting, why = _fitting(machine, size, learnt, frozen)
    at_once = min(step, fitting)
    loader = cfg.train_dataloader
    loader.batch_size = at_once
    cfg.optim_wrapper.accumulative_counts = step // at_once
    reasons = [
        f'{step} images an optimizer step: ' + (
            f'the recipe\'s {meant}' if step == meant else
            f'the recipe\'s {meant} would give fewer than {STEPS_AN_EPOCH} '
            f'steps an epoch of {num_images} images')
    ]
    if num_images // STEPS_AN_EPOCH < SMALLEST_STEP:
        reasons[0] = (f'{step} images an optimizer step, the fewest: there '
                      f'are {num_images}')
    if step > at_once:
        reasons.append(
            f'{at_once} images at once, {step // at_once} times for a step: '
            f'{why} ({machine})')
    loader.drop_last = num_images % at_once == 1
    if loader.drop_last:
        reasons.append('the last image of an epoch is left out: a '
                       'batch of one is none for batch norms')
    return reasons


def _fitting(machine: Machine, size: int, learnt: int,
             frozen: int) -> Tuple[int, str]:
    """Images at once, a power of two, by a rule of thumb; and why."""
    why = 'what fits into memory'
    # Weights of both; gradients and two moments of what learns.
    left = 0.9 * machine.memory - (16 * learnt + 4 * frozen) / 2**30
    images = left * IMAGES_A_GIB[machine.accelerator] * PIXELS / (
        size**2) / max(1, learnt / VIT_B)
    if not machine.accelerator and images > machine.cores * IMAGES_A_CORE:
        images = machine.cores * IMAGES_A_CORE
        why = f'{IMAGES_A_CORE} a core, for iterations of seconds'
    return _power_of_two(max(SMALLEST_STEP, int(images))), why


def _power_of_two(number: int) -> int:
    """The largest that is not above."""
    return 1 << (int(number).bit_length() - 1)


def _learning_rate(cfg: Config) -> List[str]:
    rate, meant = cfg.optim_wrapper.optimizer.lr, (
        cfg.auto_scale_lr.base_batch_size)
    with quietly():
        problems = scale_learning_rate(cfg)
    if problems:  # of a recipe of this package: a mistake in it
        raise ValueError(problems[0])
    images = cfg.auto_scale_lr.base_batch_size
    reasons = [f'learning rate {cfg.optim_wrapper.optimizer.lr:.3g}: '
               f'{rate * 256 / meant:.3g} for 256 images, and a step has '
               f'{images}']
    if images * SMALL_STEP <= meant:
        # https://arxiv.org/abs/2205.10287: that of adaptive optimizers.
        root = rate * (images / meant)**0.5
        reasons.append(
            'this is the recipe\'s rule, in proportion to the images. In '
            'proportion to their square root, a small step learns faster: '
            f'--cfg-options optim_wrapper.optimizer.lr={root:.2g}')
    return reasons


def _epochs(cfg: Config, epochs: Optional[int], quick: bool) -> List[str]:
    recipe = cfg.train_cfg.max_epochs
    reason = 'as given'
    if epochs is None:
        epochs = QUICK_EPOCHS if quick else recipe
        reason = 'a rehearsal' if quick else 'the recipe\'s'
    set_epochs(cfg, epochs)
    warm_up = cfg.param_scheduler[0].end
    return [f'{epochs} epochs: {reason}',
            f'warm-up of {warm_up:g} epochs, then a cosine to the end: in '
            f'proportion to the recipe\'s {recipe}']


def _workers(cfg: Config, machine: Machine) -> List[str]:
    """On a CPU training needs the cores itself."""
    loader, cores = cfg.train_dataloader, machine.cores
    wanted = cores - 1 if machine.accelerator else (
        0 if cores == 1 else max(1, cores // 4))
    loader.num_workers = min(wanted, loader.num_workers)
    loader.persistent_workers = loader.num_workers > 0
    return [f'{loader.num_workers} worker'
            f'{"s" * (loader.num_workers != 1)} load images: {cores} core'
            f'{"s" * (cores != 1)}' + (
                '' if machine.accelerator else ', which train as well')]


def _intervals(cfg: Config, num_images: int, gpu: bool) -> List[str]:
    """How many steps there are, and how often is logged and saved."""
    batch = cfg.train_dataloader.batch_size
    batches = max(1, num_images // batch if cfg.train_dataloader.drop_last
                  else -(-num_images // batch))
    logger = cfg.default_hooks.logger
    logger.interval = min(logger.interval, max(1, batches // LOGGED_LINES))
    epochs = cfg.train_cfg.max_epochs
    # Batches that are left over at the end make a step of their own.
    steps = -(-batches * epochs // cfg.optim_wrapper.accumulative_counts)
    interval = max(1, min(-(-ITERATIONS_BETWEEN[gpu] // batches),
                          epochs // CHECKPOINTS))
    cfg.default_hooks.checkpoint.interval = interval
    every = 'epoch' if interval == 1 else f'{interval} epochs'
    return [f'{steps:,} optimizer steps in all',
            f'a checkpoint every {every}, {interval * batches} iterations']
