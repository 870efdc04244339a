"""Run many trainings, one per core at a time. Each has one thread, so results do not depend on the order."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed

import torch

from gradwire.lab.studies.chart import Report
from gradwire.lab.training import History, Training, train


def run_all(trainings: Sequence[Training], report: Report) -> list[History]:
    """Run all trainings, equal ones only once, and return their histories in the given order.

    If a run raises, the others are cancelled and the exception is raised here.
    """
    wanted = list(dict.fromkeys(trainings))
    found: dict[Training, History] = {}
    # Spawned, because forked processes would inherit thread pools whose threads do not run in them.
    context = multiprocessing.get_context("spawn")
    cores = min(len(wanted), len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(max(1, cores), mp_context=context, initializer=_alone) as pool:
        futures: dict[Future[History], Training] = {pool.submit(train, training): training for training in wanted}
        try:
            for future in as_completed(futures):
                training, history = futures[future], future.result()
                found[training] = history
                final = ", ".join(f"{name} {value:.4g}" for name, value in history.final.items())
                report(f"{training.task}, {training.exchange}, n = {training.workers}: {final}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [found[training] for training in trainings]


def _alone() -> None:
    """Let a process run with one thread."""
    torch.set_num_threads(1)
