"""The kernel's counters of what an interface has sent."""

from pathlib import Path

TX_BYTES, TX_PACKETS = 8, 9  # indices in a line of /proc/net/dev, after eight receive counters


def tx_bytes(interface: str) -> int:
    """Return the bytes that `interface` has sent so far, in the calling process's network namespace.

    The driver counts packets, so headers, acknowledgements and retransmissions are included.

    Raises:
        ValueError: there is no such interface; the message names those that exist.
    """
    return _sent(interface, TX_BYTES)


def tx_packets(interface: str) -> int:
    """Return the packets that `interface` has sent so far, in the calling process's network namespace.

    A packet of up to 64 KiB that is segmented into frames only later (offloading) counts as one.

    Raises:
        ValueError: there is no such interface; the message names those that exist.
    """
    return _sent(interface, TX_PACKETS)


def _sent(interface: str, place: int) -> int:
    lines = Path("/proc/self/net/dev").read_text().splitlines()[2:]
    figures = {name.strip(): counts.split() for name, _, counts in (line.partition(":") for line in lines)}
    if interface not in figures:
        raise ValueError(f"no interface is named {interface!r} here; there are {', '.join(sorted(figures)) or 'none'}")
    return int(figures[interface][place])
