"""The processes and the signals of a run, and the random state that it borrows."""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor


class Signals:
    """Notes Ctrl-C and SIGTERM, so that a step is finished first; a second one acts at once."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._handlers[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self.__exit__()

    def __exit__(self, *_: object) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())


@dataclass(frozen=True)
class Processes:
    """The processes of a run; one, unless ``torchrun`` or the caller started more."""

    rank: int
    size: int
    device: torch.device

    @classmethod
    def join(cls, device: torch.device) -> Processes:
        """Join the process group that torchrun's environment describes, once per interpreter."""
        launched = os.environ.keys() >= {"RANK", "WORLD_SIZE", "MASTER_ADDR"}
        launched = launched and os.environ["WORLD_SIZE"] != "1" and dist.is_available()
        if not launched and not (dist.is_available() and dist.is_initialized()):
            return cls(0, 1, device)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
            atexit.register(lambda: dist.is_initialized() and dist.destroy_process_group())
        return cls(dist.get_rank(), dist.get_world_size(), device)

    def average(self, tensors: list[Tensor], weight: int) -> list[Tensor]:
        """Means over the processes, weighted by their samples: one all-reduce per dtype."""
        if self.size == 1:
            return tensors
        result = list(tensors)
        for dtype in dict.fromkeys(t.dtype for t in tensors):
            places = [i for i, t in enumerate(tensors) if t.dtype == dtype]
            total = torch.ones(1, dtype=dtype, device=self.device)
            flat = torch.cat([*(tensors[i].reshape(-1) for i in places), total]) * weight
            dist.all_reduce(flat)
            parts = (flat[:-1] / flat[-1]).split([tensors[i].numel() for i in places])
            for i, part in zip(places, parts, strict=True):
                result[i] = part.view_as(tensors[i])
        return result

    def share(self, data: bytes | None) -> bytes | None:
        """The first process's bytes."""
        if self.size == 1:
            return data
        size = torch.tensor(-1 if data is None else len(data), device=self.device)
        dist.broadcast(size, 0)
        if size < 0:
            return None
        buffer = torch.empty(int(size), dtype=torch.uint8, device=self.device)
        if data is not None:
            buffer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        dist.broadcast(buffer, 0)
        return buffer.cpu().numpy().tobytes()

    def agree(self, tensors: Iterator[Tensor]) -> None:
        """Give every process the first one's values."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)


@contextmanager
def forked_random_state(device: torch.device) -> Iterator[None]:
    """Give the caller's global random state back at the end."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def set_random_state(seed: int, step: int, stream: int, processes: Processes) -> None:
    """The global random state as a function of seed, step, stream and process."""
    words = np.random.SeedSequence((seed, step, stream, processes.rank))
    key = int(words.generate_state(1, np.uint64)[0])
    torch.default_generator.manual_seed(key)
    if processes.device.type == "cuda":
        with torch.cuda.device(processes.device):
            torch.cuda.manual_seed(key)
