"""Ranks on links of a chosen bandwidth, on one Linux machine.

    with net.launch([[sys.executable, "train.py"]] * 2, rate="100mbit") as cluster:
        for line in cluster.lines():
            print(line)
        codes = cluster.wait()

With a rate, every rank runs in its own network namespace, as root or inside an unprivileged user namespace; if the
kernel refuses, `refusal()` returns the reason in one sentence. Without a rate the ranks share loopback. In both cases
no process, interface or namespace is left behind, even if the calling process is killed by SIGKILL.
"""

from gradwire.net.cluster import Cluster, Refused
from gradwire.net.interface import tx_bytes, tx_packets
from gradwire.net.rate import parse_rate
from gradwire.net.start import launch, refusal

__all__ = ["Cluster", "Refused", "launch", "parse_rate", "refusal", "tx_bytes", "tx_packets"]
