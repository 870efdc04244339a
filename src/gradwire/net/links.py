"""The links: which programs lay them, and what a rank must know to use them.

A bridge in a network namespace of the cluster's own, and on it one namespace a rank, `rank0`, `rank1` and so on, each
by a pair of virtual interfaces: `eth0` inside, `v0`, `v1` and so on at the bridge. A token bucket at both ends shapes
what leaves them, so that a rank sends and receives at the rate. Loopback is the same cluster without any of it.
"""

import os
import shutil
import socket
from typing import NamedTuple

MOST_RANKS = 200
PORT = 29500  # where rank 0 listens, if the network is the cluster's own

Step = tuple[list[str], str]  # a command, and what it reads


class Programs(NamedTuple):
    """Where the programs lie."""

    unshare: str
    mount: str
    ip: str
    tc: str

    def alone(self) -> list[str]:
        """Return the command that starts another in namespaces that end with it."""
        rootless = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        return [self.unshare, *rootless, "--net", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"]

    def inside(self, rank: int) -> list[str]:
        """Return the command that starts another in a rank's namespace, in its own place."""
        return [self.ip, "netns", "exec", f"rank{rank}"]


def find_programs() -> Programs:
    """Find the programs; FileNotFoundError naming those that are missing."""
    # For ordinary users the sbin directories, where `ip` and `tc` may lie, are often not in PATH.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    found = {name: shutil.which(name, path=path) for name in Programs._fields}
    if missing := [name for name, place in found.items() if place is None]:
        raise FileNotFoundError(f"{' and '.join(missing)} cannot be found (packages iproute2, util-linux)")
    return Programs(**{name: place for name, place in found.items() if place is not None})


def steps(n: int, rate: int, programs: Programs) -> list[Step]:
    """Return what to run, inside the cluster's namespaces, so that n ranks have links of `rate` bits per second."""
    _, mount, ip, tc = programs
    # `ip netns` keeps its names there: over the machine's own directory, which must not see them, goes an empty one.
    places = sorted({os.path.realpath("/run"), os.path.realpath("/var/run")})
    hide = [([mount, "-t", "tmpfs", "tmpfs", place], "") for place in places]
    bridge = ["link set lo up", "link add br0 type bridge", "link set br0 up"]
    for rank in range(n):
        bridge += [f"netns add rank{rank}", f"link add v{rank} type veth peer name eth0 netns rank{rank}"]
        bridge += [f"link set v{rank} master br0 up"]
    to_ranks = [shaping(f"v{rank}", rate) for rank in range(n)]
    lay: list[Step] = [([ip, "-batch", "-"], "\n".join(bridge)), ([tc, "-batch", "-"], "\n".join(to_ranks))]
    for rank, address in enumerate(addresses(n, rate)):
        up = ["link set lo up", f"address add {address}/24 dev eth0", "link set eth0 up"]
        # Entered as the ranks will enter it, so that a kernel that refuses does so here.
        lay += [([*programs.inside(rank), ip, "-batch", "-"], "\n".join(up))]
        lay += [([tc, "-n", f"rank{rank}", "-batch", "-"], shaping("eth0", rate))]
    return hide + lay


def shaping(interface: str, rate: int) -> str:
    """Return what `tc` is to do to what leaves `interface`.

    The bucket is small, half a millisecond of the rate and 4 KiB at least, because what it holds passes unshaped after
    every pause: with 128 KiB, the compressed gradients of a step would cross a link of 100 Mbit/s in no time at all.
    Timers are late by less, so bandwidth is not lost: 95 of 100 Mbit/s arrive, 910 of 1000. It never holds more than
    100 s of the rate, since `tc` counts that time in 32 bits of 64 ns.
    """
    burst = min(max(4 << 10, rate // 16000), rate * 100 // 8)  # bytes
    return f"qdisc add dev {interface} root tbf rate {rate}bit burst {burst} latency 50ms"


def addresses(n: int, rate: int | None) -> list[str]:
    """Return the ranks' addresses; on loopback if `rate` is None."""
    return ["127.0.0.1"] * n if rate is None else [f"10.77.0.{rank + 1}" for rank in range(n)]


def environments(n: int, rate: int | None) -> list[dict[str, str]]:
    """Return the variables by which each rank finds the others."""
    interface = "lo" if rate is None else "eth0"
    shared = {
        "WORLD_SIZE": str(n),
        "LOCAL_RANK": "0",
        "MASTER_ADDR": addresses(n, rate)[0],
        "MASTER_PORT": str(free_port() if rate is None else PORT),
        "GLOO_SOCKET_IFNAME": interface,
        "NCCL_SOCKET_IFNAME": interface,
        "GRADWIRE_INTERFACE": interface,
    }
    return [{**shared, "RANK": str(rank)} for rank in range(n)]


def free_port() -> int:
    """Return a port of loopback that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
