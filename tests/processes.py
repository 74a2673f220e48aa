"""Groups of gloo processes on this machine, for what needs `torch.distributed` and not Ray."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


def run_processes(body: Callable[..., None], world: int, *arguments: object) -> None:
    """Run `body(rank, port, *arguments)` in `world` new processes; each must end well."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    workers = [context.Process(target=body, args=(rank, port, *arguments)) for rank in range(world)]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            worker.join(120)
            assert worker.exitcode == 0
    finally:
        for worker in workers:
            worker.kill()


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
