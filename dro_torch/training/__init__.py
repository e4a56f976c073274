r"""The training engine: structured DRO (network and multiplier), transport maps (two networks).

DRO paper, section 6.1.3, and unbalanced-transport paper, Algorithm 1. In go phases (modules and
their loss), batches as a function of the step, and settings; out come the trained modules, their
averages, history and checkpoints. Below are numbers, checks and how modules are copied; above are
`dro_torch.transport_map` and the user's scripts, while losses know nothing of it.

An iteration is a sequence of phases; a phase is one optimiser step on the modules it owns, while
the parameters of all others are frozen. Everything an iteration uses is a function of (seed, step):
the batch, the rates, the noise that a loss keys by (seed, step, sample index), and the global
random state, which is set before every phase (dropout) and given back to the caller at the end. So
a resumed run needs no replay and continues bit for bit, and under ``torchrun`` a loss that is a
mean over samples sees the same numbers as one process does.

Processes share the batch and average their gradients with one all-reduce per phase and dtype, which
carries the logged values along. `DistributedDataParallel` is not used: its hooks expect one forward
pass of the wrapped module per backward pass, while these losses run several (inner samples, ascent
on the potential, recomputed chunks, second derivatives), and the multiplier lives outside the
network. Losses therefore always see bare modules.
"""

from dro_torch.training.batching import Batches
from dro_torch.training.checkpoint import (
    CHECKPOINT,
    PREVIOUS,
    CheckpointError,
    load_checkpoint,
)
from dro_torch.training.fit import TrainingResult, fit
from dro_torch.training.phase import Phase, StepContext
from dro_torch.training.reconstruction import reconstruction_phase
from dro_torch.training.record import TrainingDivergedError
from dro_torch.training.schedule import ema_decay, rate_factor

__all__ = [
    "fit",
    "Phase",
    "StepContext",
    "Batches",
    "TrainingResult",
    "reconstruction_phase",
    "load_checkpoint",
    "rate_factor",
    "ema_decay",
    "TrainingDivergedError",
    "CheckpointError",
    "CHECKPOINT",
    "PREVIOUS",
]
