"""Groups of gloo processes on this machine, for what needs `torch.distributed` and not Ray."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


def run_processes(body: Callable[..., None], world: int, *arguments: object) -> None:
    """Run `body(rank, port, *arguments)` in `world` new processes; each must end well."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    workers = [context.Process(target=_run, args=(body, rank, port, *arguments)) for rank in range(world)]
    for worker in workers:
        worker.start()
    try:
        for rank, worker in enumerate(workers):
            worker.join(120)
            assert worker.exitcode == 0, f"process {rank} of {world}: exit code {worker.exitcode}"
    finally:
        for worker in workers:
            worker.kill()


def _run(body: Callable[..., None], rank: int, port: int, *arguments: object) -> None:
    body(rank, port, *arguments)
    # DeepSpeed holds on to process groups that are destroyed, so their threads are still there when the interpreter
    # goes; a process that had passed was seen to abort there: `terminate called without an active exception`. What a
    # process does after its body is not under test.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


@contextmanager
def gloo_process(rank: int, world: int, port: int) -> Iterator[None]:
    """One process of a group, single-threaded."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    yield
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
