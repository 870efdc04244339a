"""Work on real ranks: what travels between the processes, and how they end."""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from gradwire.lab import records, remote


@dataclass(frozen=True)
class Inner:
    name: str
    value: float


@dataclass(frozen=True)
class Outer:
    """A record with a field of every kind."""

    inner: Inner
    many: tuple[Inner, ...]
    table: dict[str, float | None]
    options: dict[str, int | float | str | None]
    flag: bool
    count: int | None = None
    names: tuple[str, ...] | None = None


INNER = st.builds(Inner, st.text(), st.floats(allow_nan=False))
OUTER = st.builds(
    Outer,
    INNER,
    st.lists(INNER, max_size=3).map(tuple),
    st.dictionaries(st.text(), st.none() | st.floats(allow_nan=False), max_size=3),
    st.dictionaries(
        st.text(), st.none() | st.integers() | st.floats(allow_infinity=False, allow_nan=False), max_size=3
    ),
    st.booleans(),
    st.none() | st.integers(),
    st.none() | st.lists(st.text(), max_size=2).map(tuple),
)


@given(OUTER)
def test_a_record_comes_back_equal(record: Outer) -> None:
    text = records.to_json(record)
    json.loads(text, parse_constant=pytest.fail)  # strict
    assert records.from_json(Outer, text, "the record") == record


def test_what_json_lacks_travels_by_name() -> None:
    back = records.from_json(Inner, records.to_json(Inner("x", math.nan)), "the record")
    assert math.isnan(back.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flag": 1}, "the record: flag must be true or false, got '1'"),
        ({"count": 1.5}, "the record: count must be a whole number, got '1.5'"),
        ({"count": True}, "the record: count must be a whole number, got 'True'"),
        ({"names": 3}, "the record: names must be a list, got '3'"),
        ({"table": {"x": "much"}}, "the record: table['x'] must be a number, got 'much'"),
        ({"inner": None}, "the record: inner must be an object, got 'None'"),
        ({"more": 1}, "the record has an unknown field 'more'"),
    ],
)
def test_another_record_is_refused(change: dict[str, object], message: str) -> None:
    fields = json.loads(records.to_json(Outer(Inner("x", 1.0), (), {}, {}, False)))
    with pytest.raises(ValueError, match=r".") as refused:
        records.from_json(Outer, json.dumps(fields | change), "the record")
    assert str(refused.value) == message


# What the ranks of the stories below do.


def meet(outer: Outer, report: remote.Report) -> Inner:
    """Every rank reports, rank 0 is heard, printing disturbs nothing, and all agree on rank 0's number."""
    print("not a message")
    report(Inner(outer.inner.name, float(dist.get_rank())))
    (agreed,) = remote.agreed(10.0 + dist.get_rank())
    return Inner(f"{dist.get_world_size()} ranks", agreed)


def refuse(outer: Outer, report: remote.Report) -> None:
    if dist.get_rank() == 1:
        raise FileNotFoundError("there is no such file")
    dist.barrier()


def die(outer: Outer, report: remote.Report) -> None:
    raise KeyError("a bug")


def listen(outer: Outer, report: remote.Report) -> None:
    """Report the addresses at which this process listens, as the kernel's hexadecimal words."""
    mine = set[str]()
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the listing's own
            mine.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    found = [line[1].split(":")[0] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in mine]
    report(Inner(" ".join(sorted(set(found))), len(found)))


OUTER_0 = Outer(Inner("x", math.inf), (Inner("y", 0.1),), {"z": None}, {"d": 20}, True)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ranks find this module in their working directory."""
    monkeypatch.chdir(Path(__file__).parent)


@pytest.mark.story
@pytest.mark.usefixtures("here")
def test_events_and_the_result_of_rank_0_come_back() -> None:
    heard: list[Inner] = []
    assert remote.run(meet, OUTER_0, 2, name="a meeting", listen=heard.append) == Inner("2 ranks", 10.0)
    assert heard == [Inner("x", 0.0)]


@pytest.mark.story
@pytest.mark.usefixtures("here")
def test_over_loopback_nobody_else_can_connect() -> None:
    heard: list[Inner] = []
    remote.run(listen, OUTER_0, 2, name="an ear", listen=heard.append)
    assert [each.name for each in heard] == ["0100007F"]  # 127.0.0.1
    assert heard[0].value >= 1  # the store, at least


@pytest.mark.story
@pytest.mark.usefixtures("here")
def test_bad_input_of_any_rank_is_one_sentence_and_a_bug_is_a_traceback() -> None:
    with pytest.raises(remote.Failed, match=r"^there is no such file$") as refused:
        remote.run(refuse, OUTER_0, 2, name="a refusal", timeout=20)
    assert refused.value.code == 2
    with pytest.raises(remote.Failed, match="a bug failed with codes") as died:
        remote.run(die, OUTER_0, 1, name="a bug")
    assert died.value.code == 1
    assert "KeyError: 'a bug'" in str(died.value)
    with pytest.raises(remote.Failed, match="FileNotFoundError: there is no such file") as not_ours:
        remote.run(refuse, OUTER_0, 2, name="a refusal", timeout=5, refused=(ValueError,))
    assert not_ours.value.code == 1
