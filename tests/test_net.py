"""Links of a chosen rate: what ranks see on them, how they end, and that nothing is left of them."""

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gradwire import net
from gradwire.net import links
from gradwire.net import start as starting

pytestmark = [pytest.mark.story, pytest.mark.timeout(25)]

SLEEP = [sys.executable, "-S", "-c", "import time; print('here', flush=True); time.sleep(600)"]
NOBODY: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": [], "cwd": "/"}  # an ordinary user


def python(script: str) -> list[str]:
    return [sys.executable, "-S", "-c", script]


@pytest.fixture(params=[None, "100mbit"], ids=["loopback", "links"])
def rate(request: pytest.FixtureRequest) -> str | None:
    if request.param is not None:
        skip_if_refused()
    return request.param


@pytest.fixture
def shaped() -> None:
    skip_if_refused()


def skip_if_refused() -> None:
    if (reason := net.refusal()) is not None:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def bare() -> Iterator[str]:
    """Copy the package alone, without gradwire's other parts (torch), to where any user may read it."""
    with tempfile.TemporaryDirectory(prefix="gradwire-net-") as place:
        shutil.copytree(Path(net.__file__).parent, Path(place, "gradwire", "net"))
        Path(place, "gradwire", "__init__.py").touch()
        for path in [Path(place), *Path(place).rglob("*")]:
            path.chmod(0o755)
        yield place


# Laws


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("100mbit", 100_000_000),
        ("10kbit", 10_000),
        ("1gbit", 1_000_000_000),
        ("2.5gbit", 2_500_000_000),
        ("100Mbit/s", 100_000_000),
        (" 10 MBIT ", 10_000_000),
        ("1kbit", 1_000),
        ("100gbit", 100_000_000_000),
    ],
)
def test_rate_is_read(text: str, bits: int) -> None:
    assert net.parse_rate(text) == bits


NO_RATES = "fast 100 mbit 100mb 100mbps -1mbit nan nanmbit infgbit 1e3mbit 1,5gbit 0mbit 0.9kbit 101gbit ٣mbit"


@pytest.mark.parametrize("text", [*NO_RATES.split(), "", "9" * 400 + "kbit"])
def test_rate_is_refused_in_one_sentence_that_names_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"^a rate ") as refused:
        net.parse_rate(text)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize("rate", [1_000, 10_000, 10**6, 10**8, 10**9, 10**11])
def test_bucket_is_one_that_tc_can_count_and_the_kernel_can_keep_up_with(rate: int) -> None:
    bucket = int(links.shaping("eth0", rate).split("burst ")[1].split()[0])
    assert bucket * 8 / rate * 1e9 / 64 < 2**32  # ticks of 64 ns in 32 bits
    assert bucket >= min(4 << 10, rate * 100 // 8)  # two frames
    assert bucket * 8 / rate >= 0.5e-3 * 0.999  # seconds: a timer may be late by that


def test_both_ends_of_every_link_are_shaped() -> None:
    programs = links.Programs("unshare", "mount", "ip", "tc")
    scripts = {" ".join(command): script for command, script in links.steps(3, 1_000_000, programs)}
    assert scripts["tc -batch -"].splitlines() == [links.shaping(f"v{rank}", 1_000_000) for rank in range(3)]
    assert all(scripts[f"tc -n rank{rank} -batch -"] == links.shaping("eth0", 1_000_000) for rank in range(3))


@pytest.mark.parametrize(
    ("commands", "asked", "words"),
    [
        ([], {}, "1 to 200 ranks"),
        ([["true"]] * 201, {}, "201"),
        ([["true"], []], {}, "rank 1 is empty"),
        ([["true"], ["no-such-program"]], {}, "'no-such-program'"),
        ([["true"]], {"rate": "fast"}, "'fast'"),
        ([["true"]], {"rate": 0}, "0"),
        ([["true"]], {"grace": -1}, "-1"),
        ([["true"]], {"grace": float("nan")}, "nan"),
        ([["true"]], {"stderr": subprocess.PIPE}, "-1"),
    ],
)
def test_what_makes_no_sense_is_refused_at_the_door(
    commands: list[list[str]], asked: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        net.launch(commands, **asked)


def test_tx_bytes_names_the_interfaces_there_are() -> None:
    assert net.tx_bytes("lo") >= 0
    with pytest.raises(ValueError, match=r"'eth77' here; there are .*lo"):
        net.tx_bytes("eth77")


def test_public_names() -> None:
    assert net.__all__ == sorted(["Cluster", "Refused", "launch", "parse_rate", "refusal", "tx_bytes", "tx_packets"])


# Stories: what ranks see


def test_ranks_know_each_other(rate: str | None) -> None:
    names = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"]
    names += ["GRADWIRE_INTERFACE", "COLOUR", "MASTER_PORT"]
    show = python(f"import os; print(' '.join(os.environ[name] for name in {names}), flush=True)")
    with net.launch([show] * 3, rate, env={"COLOUR": "blue", "RANK": "9"}) as cluster:
        seen = sorted(cluster.lines())
        assert cluster.wait() == [0, 0, 0]
    address, interface = ("127.0.0.1", "lo") if rate is None else ("10.77.0.1", "eth0")
    port = seen[0].split()[-1]
    assert seen == [f"{r} 3 0 {address} {interface} {interface} {interface} blue {port}" for r in range(3)]
    assert 1024 <= int(port) < 65536
    assert cluster.address == (["127.0.0.1"] * 3 if rate is None else ["10.77.0.1", "10.77.0.2", "10.77.0.3"])


def test_ranks_talk(rate: str | None) -> None:
    codes, lines = exchange(rate, payload=1000, times=1)
    assert codes == [0, 0]
    assert len(lines) == 1


def test_link_carries_its_rate_and_the_kernel_counts_it(shaped: None, bare: str) -> None:
    payload = 3_000_000
    codes, lines = exchange("100mbit", payload, times=3, python_path=bare)
    assert codes == [0, 0]
    seconds, sent = zip(*(map(float, line.split()) for line in lines), strict=True)
    # From before the first byte until the receiver's answer, so a busy machine can only make it slower: the best of
    # three. Above, frames cost at least 3 % of the line, far more than the bucket (0.2 % of the payload) lets pass.
    # Below, 95 is what an idle machine shows; the rest is for busy ones.
    assert 60e6 < payload * 8 / min(seconds) < 105e6
    # Headers are 66 bytes in 1514, or in 64 KiB where the kernel leaves the cutting to the device; repeats are few.
    assert all(payload <= count < 1.1 * payload for count in sent)


def exchange(rate: str | None, payload: int, times: int, python_path: str | None = None) -> tuple[list[int], list[str]]:
    """Rank 1 sends to rank 0, and prints the seconds until the answer and the bytes that its interface sent."""
    receive = f"""
import os, socket
server = socket.create_server((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])))
peer, _ = server.accept()
for _ in range({times}):
    left = {payload}
    while left:
        chunk = peer.recv(min(left, 1 << 16))
        assert chunk
        left -= len(chunk)
    peer.sendall(b"!")
"""
    send = f"""
import os, socket, time
try:
    from gradwire.net import tx_bytes
except ImportError:
    tx_bytes = lambda interface: 0
name = os.environ["GRADWIRE_INTERFACE"]
for attempt in range(500):
    try:
        peer = socket.create_connection((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])))
        break
    except ConnectionRefusedError:
        time.sleep(0.02)
for _ in range({times}):
    before, start = tx_bytes(name), time.perf_counter()
    peer.sendall(bytes({payload}))
    assert peer.recv(1) == b"!"
    print(time.perf_counter() - start, tx_bytes(name) - before, flush=True)
"""
    env = {"PYTHONPATH": python_path} if python_path else {}
    with net.launch([python(receive), python(send)], rate, env=env, grace=1) as cluster:
        lines = list(cluster.lines())
        return cluster.wait(), lines


def test_two_clusters_at_once(rate: str | None) -> None:
    say = python("import os, time; print(os.environ['COLOUR'], flush=True); time.sleep(0.2)")
    with (
        net.launch([say] * 2, rate, env={"COLOUR": "red"}) as red,
        net.launch([say] * 2, rate, env={"COLOUR": "blue"}) as blue,
    ):
        assert list(blue.lines()) == ["blue"] * 2
        assert list(red.lines()) == ["red"] * 2
        assert red.wait() == blue.wait() == [0, 0]


def test_standard_error_goes_where_it_is_told(rate: str | None, tmp_path: Path) -> None:
    complain = python("import sys; print('woe', file=sys.stderr); print('joy')")
    with (tmp_path / "errors").open("w") as errors, net.launch([complain] * 2, rate, stderr=errors) as cluster:
        assert list(cluster.lines()) == ["joy", "joy"]
    assert (tmp_path / "errors").read_text() == "woe\nwoe\n"
    with net.launch([complain], rate, stderr=subprocess.DEVNULL) as cluster:
        assert cluster.wait() == [0]


def test_standard_error_goes_to_the_callers(rate: str | None, capfd: pytest.CaptureFixture[str]) -> None:
    with net.launch([python("import sys; print('woe', file=sys.stderr)")], rate) as cluster:
        assert cluster.wait() == [0]
    assert capfd.readouterr().err == "woe\n"


def test_lines_of_two_ranks_never_mix(rate: str | None) -> None:
    # In pieces, as an unbuffered print writes them, and longer than what a pipe takes whole.
    pieces = python("import os\nfor i in range(300): os.write(1, b'a' * 5000), os.write(1, b'z'), os.write(1, b'\\n')")
    with net.launch([pieces] * 2, rate) as cluster:
        assert list(cluster.lines()) == ["a" * 5000 + "z"] * 600


# Stories: how ranks end


def test_exit_codes_come_in_rank_order(rate: str | None) -> None:
    ends = ["pass", "raise SystemExit(3)", "import os; os.kill(os.getpid(), 15)", "import time; time.sleep(0.2)"]
    with net.launch([python(end) for end in ends], rate) as cluster:
        assert cluster.wait() == [0, 3, -15, 0]
        assert cluster.wait() == [0, 3, -15, 0]


def test_lines_are_kept_for_a_late_reader(rate: str | None) -> None:
    # 1 MB: sixteen times what a pipe holds.
    talk = python("for i in range(10_000): print('x' * 99)\nprint('end', end='')")
    with net.launch([talk], rate) as cluster:
        assert cluster.wait(timeout=20) == [0]
    assert list(cluster.lines()) == ["x" * 99] * 10_000 + ["end"]
    assert list(cluster.lines()) == []


def test_a_failure_leaves_the_others_their_grace(rate: str | None) -> None:
    quick = python("import time; time.sleep(0.3); print('done', flush=True)")
    start = time.monotonic()
    with net.launch([python("raise SystemExit(7)"), SLEEP, quick], rate, grace=1.5) as cluster:
        assert cluster.wait() == [7, -9, 0]
        assert list(cluster.lines()) == ["here", "done"]
    assert 1.5 <= time.monotonic() - start < 15


def test_wait_kills_when_time_is_over(rate: str | None) -> None:
    with net.launch([SLEEP, python("print('here', flush=True)")], rate) as cluster:
        assert heard(cluster) == ["here"] * 2
        with pytest.raises(TimeoutError, match=r"within 0\.2 s"):
            cluster.wait(timeout=0.2)
        assert cluster.wait() == [-9, 0]


def test_kill_may_be_repeated(rate: str | None) -> None:
    with net.launch([SLEEP] * 2, rate) as cluster:
        assert heard(cluster) == ["here"] * 2
        cluster.kill()
        cluster.kill()
        assert cluster.wait() == [-9, -9]
        assert list(cluster.lines()) == []


# Stories: that nothing is left


def test_leaving_the_context_leaves_nothing(rate: str | None) -> None:
    mark, before = str(uuid.uuid4()), interfaces()
    with net.launch([brood()] * 2, rate, env={"MARK": mark}) as cluster:
        assert heard(cluster) == ["here"] * 2
        assert until(
            lambda: len(marked(mark)) >= 5
        )  # the keeper, and two ranks with a child each that has left its session
    assert marked(mark) == []
    assert interfaces() == before


def test_what_ranks_left_running_ends_with_the_last_of_them(rate: str | None) -> None:
    mark = str(uuid.uuid4())
    with net.launch([brood(stay=False)] * 2, rate, env={"MARK": mark}) as cluster:
        assert cluster.wait(timeout=20) == [0, 0]
        assert marked(mark) == []


def test_a_killed_keeper_takes_the_ranks_with_it(rate: str | None) -> None:
    mark = str(uuid.uuid4())
    with net.launch([SLEEP] * 2, rate, env={"MARK": mark}) as cluster:
        assert heard(cluster) == ["here"] * 2
        (keeper,) = [
            pid for pid in marked(mark) if b"keeper.py" in command_of(pid) and b"unshare" not in command_of(pid)
        ]
        os.kill(keeper, signal.SIGKILL)
        assert cluster.wait(timeout=20) == [-9, -9]
    assert until(lambda: marked(mark) == [])


def test_who_outlives_a_killed_keeper_on_loopback_holds_nobody_up() -> None:
    # The one thing that may outlive it: a rank's child that has left, while nobody is there to kill it. It holds the
    # rank's pipe, so no end of it is ever seen.
    mark = str(uuid.uuid4())
    with net.launch([brood()], env={"MARK": mark}) as cluster:
        assert list(itertools.islice(cluster.lines(), 1)) == ["here"]
        assert until(lambda: len(marked(mark)) == 3)  # not at once: a process in the midst of `exec` shows no mark
        (keeper,) = [pid for pid in marked(mark) if b"keeper.py" in command_of(pid)]
        os.kill(keeper, signal.SIGKILL)
        try:
            assert cluster.wait(timeout=20) == [-9]
            assert list(cluster.lines()) == ["no newline"]
        finally:
            for pid in marked(mark):
                os.kill(pid, signal.SIGKILL)
    assert until(lambda: marked(mark) == [])


def test_a_killed_unshare_takes_the_ranks_with_it(shaped: None) -> None:
    mark = str(uuid.uuid4())
    with net.launch([SLEEP] * 2, "100mbit", env={"MARK": mark}) as cluster:
        assert heard(cluster) == ["here"] * 2
        (outermost,) = [pid for pid in marked(mark) if b"unshare" in command_of(pid)]
        os.kill(outermost, signal.SIGKILL)
        assert cluster.wait(timeout=20) == [-9, -9]
    assert until(lambda: marked(mark) == [])


def test_a_killed_caller_leaves_nothing(rate: str | None, bare: str) -> None:
    kill_a_caller(rate, bare)


def test_an_ordinary_user_has_links_too(shaped: None, bare: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("the other tests have shown it: they were run by an ordinary user")
    program = ordinary_python()
    probe = "from gradwire import net; print(net.refusal() or '', end='')"
    env = caller_env(bare, "")
    reason = subprocess.run([program, "-c", probe], env=env, stdout=subprocess.PIPE, text=True, check=True, **NOBODY)
    if reason.stdout:
        pytest.skip(f"as an ordinary user: {reason.stdout}")
    kill_a_caller("100mbit", bare, program, **NOBODY)


def kill_a_caller(rate: str | None, bare: str, program: str = sys.executable, **user: Any) -> None:
    """Kill a process that has launched a cluster, and check that everything ends with it."""
    mark, before = str(uuid.uuid4()), interfaces()
    parent = subprocess.Popen(
        caller(rate, program), env=caller_env(bare, mark), stdout=subprocess.PIPE, text=True, **user
    )
    with parent:
        try:
            assert parent.stdout is not None
            assert [parent.stdout.readline() for _ in range(2)] == ["here\n"] * 2
            # The caller, its keeper, and two ranks with a child each; on links `unshare` too. Not at once, since a
            # process in the midst of `exec` shows no environment.
            assert until(lambda: len(marked(mark)) == (6 if rate is None else 7))
        finally:
            parent.kill()
    assert until(lambda: marked(mark) == [])
    assert interfaces() == before


def heard(cluster: net.Cluster) -> list[str]:
    """Return the first lines of two ranks, which shows that both run."""
    return list(itertools.islice(cluster.lines(), 2))


def brood(stay: bool = True, program: str = sys.executable) -> list[str]:
    """Return a rank with a child that has left its session."""
    script = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], start_new_session=True)
print("here\\nno newline", end="", flush=True)
time.sleep({600 if stay else 0})
"""
    return [program, "-S", "-c", script]


def caller(rate: str | None, program: str = sys.executable) -> list[str]:
    """Start a process that launches two ranks and passes on what they print."""
    script = f"""
from gradwire import net
with net.launch([{brood(program=program)}] * 2, {rate!r}) as cluster:
    for line in cluster.lines():
        print(line, flush=True)
"""
    return [program, "-c", script]


def caller_env(bare: str, mark: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": bare, "PYTHONDONTWRITEBYTECODE": "1", "MARK": mark, "HOME": "/tmp"}


def ordinary_python() -> str:
    """Return a Python that an ordinary user may start; this one may be in root's own directory."""
    for program in [sys.executable, shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin")]:
        if program is None:
            continue
        try:
            check = "import sys; sys.exit(sys.version_info < (3, 10))"
            tried = subprocess.run([program, "-c", check], check=False, **NOBODY)
        except PermissionError:
            continue
        if tried.returncode == 0:
            return program
    pytest.skip("no Python of 3.10 or later lies where an ordinary user may start it")


def marked(mark: str) -> list[int]:
    """Return the processes with MARK=mark in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"MARK={mark}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def interfaces() -> tuple[set[str], set[str]]:
    """Return the names of this machine's own interfaces and of its named network namespaces."""
    names = Path("/run/netns")
    return {name for _, name in socket.if_nameindex()}, set(os.listdir(names)) if names.exists() else set()


def until(true: Callable[[], bool]) -> bool:
    """Say whether the condition becomes true within ten seconds."""
    end = time.monotonic() + 10
    while not (now := true()) and time.monotonic() < end:
        time.sleep(0.05)
    return now


# Stories: where links cannot be had


@pytest.fixture
def afresh() -> Iterator[None]:
    """Ask again before the test, and again after it."""
    net.refusal.cache_clear()
    yield
    net.refusal.cache_clear()


def test_missing_programs_are_named(afresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    found = shutil.which
    monkeypatch.setattr(
        links.shutil, "which", lambda name, path=None: None if name in ("ip", "tc") else found(name, path=path)
    )
    words = "links of a chosen rate cannot be had here: ip and tc cannot be found (packages iproute2, util-linux)"
    assert net.refusal() == words
    with pytest.raises(net.Refused) as refused:
        net.launch([["true"]], "1gbit")
    assert str(refused.value) == words
    with net.launch([["true"]]) as cluster:  # loopback needs none of them
        assert cluster.wait() == [0]


def test_a_kernel_that_refuses_is_quoted(shaped: None, afresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "shaping", lambda interface, rate: f"qdisc add dev {interface} root no_such_shaper")
    reason = net.refusal()
    assert reason is not None
    assert reason.startswith("links of a chosen rate cannot be had here: tc: ")
    assert "no_such_shaper" in reason or "qdisc" in reason
    assert "\n" not in reason


def test_a_loaders_warning_is_no_refusal(rate: str | None) -> None:
    with net.launch([["true"]], rate, env={"LD_PRELOAD": "/no/such/library.so"}, stderr=subprocess.DEVNULL) as cluster:
        assert cluster.wait() == [0]


def test_a_refused_namespace_is_quoted(afresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    denial = ["sh", "-c", "echo unshare: unshare failed: Operation not permitted >&2; exit 1", "unshare"]
    monkeypatch.setattr(links.Programs, "isolated", lambda programs: denial)
    monkeypatch.setattr(starting.links, "find_programs", lambda: links.Programs("unshare", "mount", "ip", "tc"))
    words = "links of a chosen rate cannot be had here: unshare: unshare failed: Operation not permitted"
    assert net.refusal() == words
