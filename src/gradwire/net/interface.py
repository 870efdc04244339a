"""What an interface has sent, as the kernel counts it."""

from pathlib import Path

TX_BYTES, TX_PACKETS = 8, 9  # places in a line of /proc/net/dev: eight figures of receiving come before them


def tx_bytes(interface: str) -> int:
    """Return the bytes `interface` has sent so far, in the calling process's own network namespace.

    Counted where the driver takes a packet, so headers, acknowledgements and repeats are in it. ValueError names the
    interfaces that exist if this one does not.
    """
    return _sent(interface, TX_BYTES)


def tx_packets(interface: str) -> int:
    """Return the packets `interface` has sent so far; one that is cut into frames only later, up to 64 KiB, is one.

    ValueError as for `tx_bytes`.
    """
    return _sent(interface, TX_PACKETS)


def _sent(interface: str, place: int) -> int:
    lines = Path("/proc/self/net/dev").read_text().splitlines()[2:]
    figures = {name.strip(): counts.split() for name, _, counts in (line.partition(":") for line in lines)}
    if interface not in figures:
        raise ValueError(f"no interface is named {interface!r} here; there are {', '.join(sorted(figures)) or 'none'}")
    return int(figures[interface][place])
