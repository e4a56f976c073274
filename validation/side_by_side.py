"""Trainings side by side, in processes of one thread each: they are read afterwards."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import torch

Job = TypeVar("Job")
Result = TypeVar("Result")


def end_with_parent() -> None:
    """A process whose parent was killed ends too; its checkpoints are whole at any time."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def with_threads(threads: int, train: Callable[[Job], Result], job: Job) -> Result:
    """What a process of its own does."""
    torch.set_num_threads(threads)
    return train(job)


def side_by_side(
    train: Callable[[Job], Result], jobs: Sequence[Job], processes: int, threads: int = 1
) -> list[Result]:
    """Train every job, so many at a time; fewer than two processes: nothing is done here.

    `train` is a function of a module (or a partial one), and its jobs can be pickled: processes
    are spawned. What fails there is raised here.
    """
    count = min(processes, len(jobs))
    if count < 2:
        return []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=spawn, initializer=end_with_parent) as pool:
        asked = [pool.submit(with_threads, threads, train, job) for job in jobs]
        return [done.result() for done in asked]
