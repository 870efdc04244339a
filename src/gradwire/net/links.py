"""The links: the commands that set them up, and the environment variables that a rank needs to use them.

The cluster has its own network namespace with a bridge, and one more namespace for each rank: `rank0`, `rank1` and so
on. A pair of virtual interfaces connects the two: `eth0` in the rank's namespace, `v0`, `v1` and so on at the bridge. A
token bucket shapes what leaves either end, so a rank sends and receives at the rate. A cluster on loopback has none of
this.
"""

import os
import shutil
import socket
from typing import NamedTuple

MOST_RANKS = 200
PORT = 29500  # on which rank 0 listens, if the cluster has its own network

Step = tuple[list[str], str]  # a command and its standard input


class Programs(NamedTuple):
    """Paths of the programs."""

    unshare: str
    mount: str
    ip: str
    tc: str

    def isolated(self) -> list[str]:
        """Return the prefix that runs a command in new namespaces, which end with it."""
        rootless = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        return [self.unshare, *rootless, "--net", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"]

    def inside(self, rank: int) -> list[str]:
        """Return the prefix that runs a command in a rank's network namespace, by exec."""
        return [self.ip, "netns", "exec", f"rank{rank}"]


def find_programs() -> Programs:
    """Find the programs; FileNotFoundError names those that are missing."""
    # An ordinary user's PATH often lacks the sbin directories, where `ip` and `tc` may be.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    found = {name: shutil.which(name, path=path) for name in Programs._fields}
    if missing := [name for name, place in found.items() if place is None]:
        raise FileNotFoundError(f"{' and '.join(missing)} cannot be found (packages iproute2, util-linux)")
    return Programs(**{name: place for name, place in found.items() if place is not None})


def steps(n: int, rate: int, programs: Programs) -> list[Step]:
    """Return the commands that, in the cluster's namespaces, give n ranks links of `rate` bits per second."""
    _, mount, ip, tc = programs
    # `ip netns` keeps names in these directories. Empty file systems hide the machine's own, which must not get them.
    places = sorted({os.path.realpath("/run"), os.path.realpath("/var/run")})
    hide = [([mount, "-t", "tmpfs", "tmpfs", place], "") for place in places]
    bridge = ["link set lo up", "link add br0 type bridge", "link set br0 up"]
    for rank in range(n):
        bridge += [f"netns add rank{rank}", f"link add v{rank} type veth peer name eth0 netns rank{rank}"]
        bridge += [f"link set v{rank} master br0 up"]
    to_ranks = [shaping(f"v{rank}", rate) for rank in range(n)]
    setup: list[Step] = [([ip, "-batch", "-"], "\n".join(bridge)), ([tc, "-batch", "-"], "\n".join(to_ranks))]
    for rank, address in enumerate(addresses(n, rate)):
        up = ["link set lo up", f"address add {address}/24 dev eth0", "link set eth0 up"]
        # Entered in the same way as the ranks will be, so that a refusal of the kernel shows here.
        setup += [([*programs.inside(rank), ip, "-batch", "-"], "\n".join(up))]
        setup += [([tc, "-n", f"rank{rank}", "-batch", "-"], shaping("eth0", rate))]
    return hide + setup


def shaping(interface: str, rate: int) -> str:
    """Return the `tc` command that shapes outgoing traffic of `interface` to `rate` bits per second.

    The bucket is small, half a millisecond of the rate and at least 4 KiB, because a full bucket passes unshaped after
    every pause: with 128 KiB, the compressed gradients of a step would cross a link of 100 Mbit/s in no time. Timers
    are late by less, so bandwidth is not lost: 95 of 100 Mbit/s arrive, 910 of 1000. The bucket never exceeds 100 s of
    the rate, since `tc` counts that time in 32 bits of 64 ns.
    """
    burst = min(max(4 << 10, rate // 16000), rate * 100 // 8)  # bytes
    return f"qdisc add dev {interface} root tbf rate {rate}bit burst {burst} latency 50ms"


def addresses(n: int, rate: int | None) -> list[str]:
    """Return the IP addresses of n ranks; all are loopback's if `rate` is None."""
    return ["127.0.0.1"] * n if rate is None else [f"10.77.0.{rank + 1}" for rank in range(n)]


def environments(n: int, rate: int | None) -> list[dict[str, str]]:
    """Return, for each rank, the environment variables by which it finds the others."""
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
    """Return a currently free TCP port of loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
