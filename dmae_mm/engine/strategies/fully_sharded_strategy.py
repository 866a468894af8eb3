import time
from typing import Callable, Optional, Sequence

import mmengine
import torch
import torch.nn as nn
from mmengine._strategy import DDPStrategy
from mmengine.device import get_device
from mmengine.dist import get_world_size, is_main_process
from mmengine.registry import STRATEGIES
from mmengine.runner import save_checkpoint
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions, get_model_state_dict, get_optimizer_state_dict,
    set_model_state_dict, set_optimizer_state_dict)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from ..checkpointing import whole_files

DTYPES = ('float32', 'bfloat16')
BLOCKS = ('TransformerEncoderLayer', 'BEiTTransformerEncoderLayer',
          'DeiT3TransformerEncoderLayer', 'EVA02EndcoderLayer', 'BlockWithRPE',
          'Block', 'EvaBlock', 'CrossAttentionBlock', 'FeatureProjectionNeck')

# What a checkpoint holds is whole, on the CPU: the plain file that one
# process without sharding would write.
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


@STRATEGIES.register_module()
class FullyShardedStrategy(DDPStrategy):
    """Shards a model over the processes: PyTorch's FSDP2 for MMEngine.

    Parameters, gradients and optimizer state are split evenly over all
    processes (Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded
    Data Parallel", VLDB 2023, with ``torch.distributed.fsdp.fully_shard``);
    each transformer block is gathered when its turn comes. For students or
    teachers that leave no room on one device; all others train faster in DDP.

    A config names it together with MMEngine's ``FlexibleRunner``::

        runner_type = 'FlexibleRunner'
        strategy = dict(type='FullyShardedStrategy')

    MMEngine's own ``FSDPStrategy`` is not used: it is made for the first FSDP,
    which PyTorch has deprecated, cannot resume an optimizer, and writes
    checkpoints that only the same number of processes can read, or crashes
    (torch 2.10, on CPUs). Here, a checkpoint is one plain file with whole
    tensors, as without sharding, and any number of processes can resume it.
    Only the optimizer's state is stored by parameter name, so that a run
    resumes with this strategy only; weights load everywhere.

    Without accelerators it runs on CPUs over gloo.

    Args:
        blocks (list[str]): Names of the classes whose instances are gathered
            one at a time. Defaults to the transformer blocks of mmpretrain,
            timm and dmae_mm, and the projectors: a recorded block output is
            in ``block_dtype``.
        shard_teacher (bool): Whether a frozen teacher is sharded as well.
            Its blocks are then gathered in each step, too: a third of the
            traffic of a trained block. Defaults to False: each process has
            a whole copy.
        block_dtype (str): 'float32' or 'bfloat16', the type in which the
            student's sharded blocks compute and are gathered; gradients are
            summed, losses computed and weights updated in float32. Defaults
            to 'float32'.
        **kwargs: As of MMEngine's :class:`DDPStrategy`; given by the runner.

    Raises:
        ValueError: For other dtypes, and when the model has no such blocks.
    """

    def __init__(self,
                 *,
                 blocks: Sequence[str] = BLOCKS,
                 shard_teacher: bool = False,
                 block_dtype: str = 'float32',
                 **kwargs) -> None:
        super().__init__(**kwargs)
        if block_dtype not in DTYPES:
            raise ValueError(f'strategy.block_dtype={block_dtype!r} is none '
                             f'of {", ".join(map(repr, DTYPES))}.')
        self.blocks = blocks
        self.shard_teacher = shard_teacher
        self.block_dtype = block_dtype

    def _setup_distributed(self,
                           launcher: str = 'pytorch',
                           backend: Optional[str] = None,
                           **kwargs) -> None:
        super()._setup_distributed(launcher, backend or 'nccl', **kwargs)

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        """Replace the model's parameters by their shards, in place."""
        device = get_device()
        self.mesh = init_device_mesh(device, (get_world_size(), ))
        if self.shard_teacher:
            for teacher in getattr(model, 'teachers', {}).values():
                self._shard(teacher, block_dtype='float32')
        self._shard(model, self.block_dtype)
        return model.to(device)

    def _shard(self, model: nn.Module, block_dtype: str) -> None:
        blocks = [
            module for module in model.modules()
            if type(module).__name__ in self.blocks
        ]
        if not blocks:
            raise ValueError(
                f'strategy.blocks={list(self.blocks)}: {type(model).__name__} '
                'has none of them. Name the classes of its transformer blocks.'
            )
        # float32 leaves weights and inputs as they are, of whatever type.
        policy = MixedPrecisionPolicy() if block_dtype == 'float32' else (
            MixedPrecisionPolicy(
                param_dtype=torch.bfloat16,
                reduce_dtype=torch.float32,
                output_dtype=torch.float32))
        for block in blocks:
            # What is frozen in part gives gradients from its inside (see
            # freeze_unreached), for which PyTorch does not gather it again.
            fully_shard(
                block,
                mesh=self.mesh,
                mp_policy=policy,
                reshard_after_forward=len(
                    {p.requires_grad for p in block.parameters()}) < 2)
        fully_shard(model, mesh=self.mesh)

    def model_state_dict(self) -> dict:
        """Whole tensors, on the CPU of the main process; elsewhere empty."""
        return get_model_state_dict(self.model, options=_WHOLE)

    def optim_state_dict(self) -> dict:
        """The same of the optimizer, by parameter name."""
        return get_optimizer_state_dict(
            self.model, self.optim_wrapper.optimizer, options=_WHOLE)

    def load_model_state_dict(
            self,
            state_dict: dict,
            *,
            strict: bool = False,
            revise_keys: list = [(r'^module.', '')]) -> None:
        """Take one's own shards from whole tensors."""
        set_model_state_dict(
            self.model,
            state_dict,
            options=StateDictOptions(full_state_dict=True, strict=strict))

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """The same for the optimizer.

        Raises:
            ValueError: If the state was written without sharding.
        """
        if any(isinstance(name, int) for name in state_dict['state']):
            raise ValueError(
                'The checkpoint is of a run without FullyShardedStrategy: its '
                'optimizer state cannot be resumed with it. Resume as the run '
                'was started, or take the weights only: load_from=CHECKPOINT '
                'and resume=False.')
        set_optimizer_state_dict(
            self.model,
            self.optim_wrapper.optimizer,
            state_dict,
            options=StateDictOptions(full_state_dict=True))

    def save_checkpoint(self,
                        filename: str,
                        *,
                        save_optimizer: bool = True,
                        save_param_scheduler: bool = True,
                        extra_ckpt: Optional[dict] = None,
                        callback: Optional[Callable] = None) -> None:
        """Write one file from all processes' shards.

        Called on every process: gathering needs all of them. Arguments are
        those of MMEngine's strategies.
        """
        checkpoint = dict(extra_ckpt or {}, state_dict=self.model_state_dict())
        if save_optimizer and hasattr(self, 'optim_wrapper'):
            checkpoint['optimizer'] = self.optim_state_dict()
        if save_param_scheduler and hasattr(self, 'param_schedulers'):
            checkpoint['param_schedulers'] = self.scheduler_state_dict()
        checkpoint['meta'] = dict(
            checkpoint.get('meta', {}),
            seed=self.seed,
            time=time.strftime('%Y%m%d_%H%M%S'),
            mmengine=mmengine.__version__)
        if callback is not None:
            callback(checkpoint)
        if is_main_process():
            save_checkpoint(
                checkpoint, filename, backend_args=whole_files(filename))
