"""Trainings side by side, in processes of one thread each: they are read afterwards."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import torch

Job = TypeVar("Job")


def one_thread(train: Callable[[Job], object], job: Job) -> None:
    """What a process of its own does."""
    torch.set_num_threads(1)
    train(job)


def side_by_side(train: Callable[[Job], object], jobs: Sequence[Job], processes: int) -> None:
    """Train every job, so many at a time; fewer than two processes: nothing is done here.

    `train` is a function of a module (or a partial one), and its jobs can be pickled: processes
    are spawned. What fails there is raised here.
    """
    count = min(processes, len(jobs))
    if count < 2:
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=spawn) as pool:
        for done in [pool.submit(one_thread, train, job) for job in jobs]:
            done.result()
