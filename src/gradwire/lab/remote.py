"""Run one function on real ranks, the processes of a gloo group, and return rank 0's result.

    measured = remote.run(measure_cell, cell, ranks=2, name="the benchmark", rate="100mbit", listen=print)

`run` starts `python -m gradwire.lab.remote ORDER` on every rank. An order names the function and holds its argument, a
dataclass. The function is called with that argument and with `report`, which passes dataclasses from rank 0 to the
caller while it works. Ranks write messages to standard output, one line of JSON each:

    {"event": {"of": "module:Class", "fields": {...}}}     a dataclass that rank 0 reported
    {"result": {"of": "module:Class", "fields": {...}}}    what rank 0 returned; null for None
    {"error": "one sentence"}                              invalid input, from any rank, which then ends with code 2

`here` does the same as one of the ranks that torchrun started.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeAlias, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from gradwire import net
from gradwire.lab import records
from gradwire.lab.failed import Failed

A = TypeVar("A")
R = TypeVar("R")

Report: TypeAlias = Callable[[Any], None]
"""Receives events: dataclasses that describe progress."""

BAD_INPUT = (ValueError, ArithmeticError, ModuleNotFoundError, FileNotFoundError)
"""Errors whose message is one sentence for the user."""

MEETING = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables by which ranks find each other."""


@dataclass(frozen=True)
class Order:
    """The command-line argument of a rank.

    function: "module:name". argument: the argument as JSON, in a message's form. timeout: seconds after which a
    collective fails. refused: names of the built-in exceptions that mean invalid input.
    """

    function: str
    argument: str
    timeout: float
    refused: tuple[str, ...]


def ignore(event: Any) -> None:
    """Ignore an event."""


def run(
    function: Callable[[A, Report], R],
    argument: A,
    ranks: int,
    *,
    name: str,
    rate: str | None = None,
    listen: Report = ignore,
    timeout: float = 300.0,
    refused: tuple[type[Exception], ...] = BAD_INPUT,
) -> R:
    """Run a function on `ranks` processes, on links of `rate` or over loopback, and return rank 0's result.

    Args:
        function: a function at module level that takes the argument and `report`, and returns a dataclass or None.
        argument: a dataclass.
        ranks: number of processes, with one thread each.
        name: what is run, for error messages, such as "the training of vision".
        rate: the bandwidth of every link, such as "100mbit"; None for loopback.
        listen: called with every dataclass that rank 0 reports.
        timeout: seconds after which a collective fails.
        refused: exceptions that mean invalid input.

    Raises:
        Failed: a rank refused its input (code 2) or died (code 1); the message comes from the rank.
        gradwire.net.Refused: links of a chosen rate are not available.
    """
    order = Order(_address(function), json.dumps(_message(argument)), timeout, tuple(kind.__name__ for kind in refused))
    command = [sys.executable, "-m", "gradwire.lab.remote", records.to_json(order)]
    with (
        tempfile.TemporaryFile("w+") as errors,
        net.launch([command] * ranks, rate=rate, env={"OMP_NUM_THREADS": "1"}, stderr=errors) as cluster,
    ):
        results: list[R] = list(_results(cluster.lines(), listen))
        codes = cluster.wait()
        errors.seek(0)
        complaint = errors.read()
    if any(codes):
        raise Failed(f"{name} failed with codes {codes}: {complaint[-2000:]}", 1)
    if not results:
        raise Failed(f"{name} ended without a result", 1)
    return results[0]


def here(work: Callable[[bool], None], complain: Callable[[str], None], timeout: float) -> NoReturn:
    """Join the ranks that torchrun started, call `work(rank == 0)`, and end the process.

    A ValueError of `work` is passed to `complain`, and the process ends with code 2. The number of threads is not
    changed: OMP_NUM_THREADS sets it.

    Raises:
        ValueError: the environment lacks a variable by which ranks find each other.
    """
    if lacking := [name for name in MEETING if name not in os.environ]:
        raise ValueError(f"the environment lacks {', '.join(lacking)}: start the ranks by torchrun")
    _join(lambda: work(dist.get_rank() == 0), complain, timeout, (ValueError,))


def agreed(*mine: float) -> list[float]:
    """Broadcast rank 0's numbers; a collective call."""
    numbers = torch.tensor(mine, dtype=torch.float64)
    dist.broadcast(numbers, 0)
    return [float(number) for number in numbers]


def link_counters() -> tuple[int, int]:
    """Bytes and packets that this rank's interface has sent, by the kernel's count; zeros on loopback (shared)."""
    interface = os.environ.get("GRADWIRE_INTERFACE", "lo")
    return (0, 0) if interface == "lo" else (net.tx_bytes(interface), net.tx_packets(interface))


def main() -> NoReturn:
    """Run as one rank: carry out the order given on the command line."""
    order = records.from_json(Order, sys.argv[1], "the order")
    function, refused = _located(order.function), tuple(_located(f"builtins:{name}") for name in order.refused)
    # Standard output carries messages, so whatever the function itself prints goes to standard error.
    output, sys.stdout = sys.stdout, sys.stderr

    def send(kind: str, message: Any) -> None:
        print(json.dumps({kind: message}), file=output, flush=True)

    def report(event: Any) -> None:
        if dist.get_rank() == 0:
            send("event", _message(event))

    def work() -> None:
        result = function(_value(json.loads(order.argument)), report)
        if dist.get_rank() == 0:
            send("result", _message(result))

    torch.set_num_threads(1)
    _join(work, lambda sentence: send("error", sentence), order.timeout, refused)


def _results(lines: Iterable[str], listen: Report) -> Iterator[Any]:
    """Yield the results among the ranks' messages, and pass events to `listen`; Failed (code 2) at an error message."""
    for line in lines:
        match json.loads(line):
            case {"error": sentence}:
                raise Failed(sentence, 2)
            case {"event": message}:
                listen(_value(message))
            case {"result": message}:
                yield _value(message)
            case _:
                raise ValueError(f"a rank has printed what is no message: {line[:100]!r}")


def _join(
    work: Callable[[], None], complain: Callable[[str], None], timeout: float, refused: tuple[type[Exception], ...]
) -> NoReturn:
    """Join the gloo group, work, and end the process; with code 2, after `complain`, for invalid input."""
    _meet(timedelta(seconds=timeout))
    code = 0
    try:
        work()
    except refused as error:
        complain(str(error))
        code = 2
    dist.destroy_process_group()
    # At the interpreter's end torch 2.13 aborts one process in fifty on a busy machine ("terminate called without an
    # active exception"), also with plain DDP and no hook. So the process ends here, after all output is written.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _meet(timeout: timedelta) -> None:
    """Open the gloo group, with a store that listens only at MASTER_ADDR; torch's default listens on all interfaces."""
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun has a store of its own
        dist.init_process_group("gloo", timeout=timeout)
        return
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    listening = socket.create_server((host, port)).detach() if rank == 0 else None
    store = TCPStore(host, port, size, rank == 0, timeout, master_listen_fd=listening)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timeout)


def _message(value: Any) -> dict[str, Any] | None:
    """Convert a dataclass to a JSON object of its class and its fields; None stays None."""
    return None if value is None else {"of": _address(type(value)), "fields": asdict(value)}


def _value(message: dict[str, Any] | None) -> Any:
    """Convert a message back to its dataclass."""
    return None if message is None else records.read(_located(message["of"]), message["fields"], message["of"])


def _address(thing: Any) -> str:
    """The address of a class or function: "module:name"."""
    return f"{thing.__module__}:{thing.__qualname__}"


def _located(address: str) -> Any:
    """Import the class or function at an address."""
    module, _, name = address.partition(":")
    return getattr(importlib.import_module(module), name)


if __name__ == "__main__":
    main()
