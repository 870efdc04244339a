"""One function on real ranks: every process of a gloo group runs it, and the result of rank 0 comes back.

    measured = remote.run(measure_cell, cell, ranks=2, name="the benchmark", rate="100mbit", listen=print)

`run` starts `python -m gradwire.lab.remote ORDER` on every rank. An order names the function and holds its argument, a
dataclass. The function is called with that argument and with `tell`, to which rank 0 hands dataclasses while it works.
What travels is lines of JSON on standard output, one message each:

    {"event": {"of": "module:Class", "fields": {...}}}     what rank 0 has told
    {"result": {"of": "module:Class", "fields": {...}}}    what rank 0 has returned; null for None
    {"error": "one sentence"}                              bad input, from any rank, which then ends with code 2

`here` does the same work as one rank of those that torchrun has started.
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

Tell: TypeAlias = Callable[[Any], None]
"""Takes a dataclass that says what has happened."""

BAD_INPUT = (ValueError, ArithmeticError, ModuleNotFoundError, FileNotFoundError)
"""Errors whose message is one sentence for the user."""

MEETING = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What the environment must hold so that ranks can find each other."""


@dataclass(frozen=True)
class Order:
    """What a rank is started with.

    function: "module:name". argument: a message. timeout: seconds after which a collective fails. refused: names of the
    built-in exceptions that mean bad input.
    """

    function: str
    argument: str
    timeout: float
    refused: tuple[str, ...]


def ignore(event: Any) -> None:
    """Hear nothing."""


def run(
    function: Callable[[A, Tell], R],
    argument: A,
    ranks: int,
    *,
    name: str,
    rate: str | None = None,
    listen: Tell = ignore,
    timeout: float = 300.0,
    refused: tuple[type[Exception], ...] = BAD_INPUT,
) -> R:
    """Run a function on `ranks` processes, on links of `rate` or over loopback; what rank 0 returns.

    Args:
        function: at the top of its module; takes the argument and `tell`, returns a dataclass or None.
        argument: a dataclass.
        ranks: number of processes, with one thread each.
        name: what is run, for messages: "the training of vision".
        rate: of every link, such as "100mbit".
        listen: is called with every dataclass that rank 0 tells.
        timeout: seconds after which a collective fails.
        refused: exceptions that mean bad input.

    Raises:
        Failed: a rank refused its input (code 2) or died (1); the message is its own.
        gradwire.net.Refused: the kernel does not give links.
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
        raise Failed(f"{name} has not come to its end", 1)
    return results[0]


def here(work: Callable[[bool], None], complain: Callable[[str], None], timeout: float) -> NoReturn:
    """Join the ranks that torchrun has started, work, and end the process; `work` takes whether this is rank 0.

    Bad input (ValueError) ends with code 2 after one complaint. Threads are as many as OMP_NUM_THREADS says.
    """
    if lacking := [name for name in MEETING if name not in os.environ]:
        raise ValueError(f"ranks of a network find each other by {', '.join(lacking)}: start them by torchrun")
    _join(lambda: work(dist.get_rank() == 0), complain, timeout, (ValueError,))


def agreed(*mine: float) -> list[float]:
    """Rank 0's numbers, on every rank. Every rank calls it."""
    numbers = torch.tensor(mine, dtype=torch.float64)
    dist.broadcast(numbers, 0)
    return [float(number) for number in numbers]


def link_counters() -> tuple[int, int]:
    """Bytes and packets that the kernel has sent on this rank's link; zeros on loopback, which all ranks share."""
    interface = os.environ.get("GRADWIRE_INTERFACE", "lo")
    return (0, 0) if interface == "lo" else (net.tx_bytes(interface), net.tx_packets(interface))


def main() -> NoReturn:
    """Be one rank: follow the order on the command line."""
    order = records.from_json(Order, sys.argv[1], "the order")
    function, refused = _located(order.function), tuple(_located(f"builtins:{name}") for name in order.refused)
    # Standard output is for messages: what the work itself prints goes to standard error.
    output, sys.stdout = sys.stdout, sys.stderr

    def send(kind: str, message: Any) -> None:
        print(json.dumps({kind: message}), file=output, flush=True)

    def tell(event: Any) -> None:
        if dist.get_rank() == 0:
            send("event", _message(event))

    def work() -> None:
        result = function(_value(json.loads(order.argument)), tell)
        if dist.get_rank() == 0:
            send("result", _message(result))

    torch.set_num_threads(1)
    _join(work, lambda sentence: send("error", sentence), order.timeout, refused)


def _results(lines: Iterable[str], listen: Tell) -> Iterator[Any]:
    """The results among the messages of the ranks; every event is passed on. Failed (code 2) at an error."""
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
    """Join the others over gloo, work, and end the process: with code 2 after one complaint if the input was bad."""
    _meet(timedelta(seconds=timeout))
    code = 0
    try:
        work()
    except refused as error:
        complain(str(error))
        code = 2
    dist.destroy_process_group()
    # At the interpreter's end torch 2.13 aborts one process in fifty on a busy machine ("terminate called without an
    # active exception"), plain DDP without a hook as well. So the process ends here; all is printed and written.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _meet(timeout: timedelta) -> None:
    """Open gloo's group. torch's own store would listen on all interfaces of the machine, this one at MASTER_ADDR."""
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun has its store
        dist.init_process_group("gloo", timeout=timeout)
        return
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    listening = socket.create_server((host, port)).detach() if rank == 0 else None
    store = TCPStore(host, port, size, rank == 0, timeout, master_listen_fd=listening)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timeout)


def _message(value: Any) -> dict[str, Any] | None:
    """A dataclass as what JSON holds: its class and its fields."""
    return None if value is None else {"of": _address(type(value)), "fields": asdict(value)}


def _value(message: dict[str, Any] | None) -> Any:
    """The dataclass that `_message` was given."""
    return None if message is None else records.read(_located(message["of"]), message["fields"], message["of"])


def _address(thing: Any) -> str:
    """Where a class or function is found: "module:name"."""
    return f"{thing.__module__}:{thing.__qualname__}"


def _located(address: str) -> Any:
    """What `_address` was given."""
    module, _, name = address.partition(":")
    return getattr(importlib.import_module(module), name)


if __name__ == "__main__":
    main()
