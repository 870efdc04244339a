"""The laws can fail: parts that are broken on purpose are caught by the law that they break."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

import gradwire as gw
from gradwire.testing import COMPRESSOR_LAWS, EXCHANGE_LAWS, BrokenLaw, check_compressor, check_exchange

RANDK = gw.compress.RandK(0.5)


@dataclass(frozen=True)
class Broken:
    """Rand-k with one method replaced."""

    encode_: Callable | None = None
    decode_: Callable | None = None
    apply_: Callable | None = None
    constants: tuple[float | None, float | None] | None = None
    extra: int = 0
    inner: gw.Compressor = RANDK

    def encode(self, x, turn):
        return (self.encode_ or _encode)(self.inner, x, turn)

    def decode(self, wire, d):
        return (self.decode_ or _decode)(self.inner, wire, d)

    def apply(self, x, turn):
        return (
            self.apply_(self.inner, x, turn)
            if self.apply_
            else self.decode(self.encode(x, turn), x.shape[-1]).to(x.dtype)
        )

    def nbytes(self, d):
        return self.inner.nbytes(d) + self.extra

    def omega(self, d):
        return self.constants[0] if self.constants else self.inner.omega(d)

    def delta(self, d):
        return self.constants[1] if self.constants else self.inner.delta(d)


def _encode(inner, x, turn):
    return inner.encode(x, turn)


def _decode(inner, wire, d):
    return inner.decode(wire, d)


def writes_into_x(inner, x, turn):
    wire = inner.encode(x, turn)
    if x.is_contiguous():
        x.mul_(2.0)
    return wire


def keeps_x(inner, wire, d):
    return gw.Dense(KEPT[0])


KEPT: list[Tensor] = []


def remembers_x(inner, x, turn):
    KEPT[:] = [x]
    return inner.encode(x, turn)


def forgets_the_last_row(inner, x, turn):
    wire = inner.encode(x, turn)
    return wire if x.ndim == 1 else torch.cat([wire[:-1], wire[:1]])


def flattens_rows(inner, x, turn):
    return inner.encode(x.flatten(), turn)


def halves_rows(inner, x, turn):
    return inner.encode(x if x.ndim == 1 else x / 2, turn)


def one_too_far(inner, wire, d):
    vector = inner.decode(wire, d)
    return gw.Sparse(vector.indices + 1, vector.values, d)


def trusts_every_byte(inner, wire, d):
    """Take the first eight bytes for an index, whatever they are."""
    vector = inner.decode(wire, d)
    said = wire[..., :8].contiguous().view(torch.int64)
    believed = vector.indices.clone()
    believed[..., :1] = said % (d + 1) if believed.shape[-1] else believed[..., :1]
    return gw.Sparse(believed, vector.values, d)


def takes_any_length(inner, wire, d):
    return inner.decode(torch.nn.functional.pad(wire, (0, inner.nbytes(d)))[..., : inner.nbytes(d)], d)


def crashes_on_nothing(inner, x, turn):
    x.abs().amax(-1)  # IndexError for no element
    return inner.encode(x, turn)


def draws_by_step(inner, x, turn):
    return inner.encode(x, replace(turn, rank=0))


def asks_the_clock(inner, x, turn):
    CLOCK.append(0)
    return inner.encode(x, replace(turn, step=len(CLOCK)))


CLOCK: list[int] = []


def reads_memory_as_it_lies(inner, x, turn):
    return inner.encode(torch.as_strided(x, x.shape, torch.empty(x.shape).stride()), turn)


def overflows(inner, wire, d):
    return inner.decode(wire, d).times(1e30)


def lifts_zeros(inner, wire, d):
    vector = inner.decode(wire, d)
    return gw.Sparse(vector.indices, vector.values + 1, d)


def drops_half(inner, x, turn):
    return inner.apply(x, turn).times(0.5)


def rounds_away(inner, x, turn):
    return inner.apply(x, turn).to(torch.float16).to(torch.float32)


class Plain(Broken):
    """An operator without a dataclass's equality."""

    __eq__, __hash__ = object.__eq__, object.__hash__


@dataclass(frozen=True)
class Natural(Broken):
    """A stranger's operator that takes the name of a part."""

    def __repr__(self):
        return "Natural()"


COMPRESSORS = {
    "bytes are as promised": [
        (Broken(extra=1), r"encode gives \[8\] bytes for normal, length is 9, nbytes 9"),
        (Broken(encode_=lambda inner, x, turn: inner.encode(x, turn).float()), "encode gives float32"),
        (Broken(decode_=one_too_far), r"has the index 1, outside \[0, 1\)"),
        (Broken(encode_=crashes_on_nothing), "raised IndexError"),
    ],
    "apply is decode after encode": [
        (Broken(apply_=drops_half), "apply and decode after encode differ"),
        (Broken(apply_=rounds_away), "apply and decode after encode differ"),
    ],
    "rows are vectors": [
        (Broken(encode_=forgets_the_last_row, inner=gw.compress.TopK(0.5)), "is encoded otherwise when it is alone"),
        (Broken(encode_=flattens_rows, inner=gw.compress.Identity()), r"encode of float32\[2, 3, 0\] gives uint8\[0\]"),
    ],
    "operators are pure": [
        (Broken(encode_=writes_into_x), "encode writes into x"),
        (Broken(encode_=asks_the_clock), "the same turn gives other bytes"),
        (Broken(encode_=remembers_x, decode_=keeps_x), "what is decoded shares memory with x"),
    ],
    "workers draw for themselves": [(Broken(encode_=draws_by_step), "another rank draws the same")],
    "hard inputs stay finite": [
        (Broken(decode_=overflows), "what is decoded is not finite"),
        (Broken(encode_=reads_memory_as_it_lies), "a copy without gaps gives other bytes"),
    ],
    "zeros stay zero": [(Broken(decode_=lifts_zeros), "zeros decode to: 1 and 0")],
    "the repr is a spec": [(Plain(), "it differs from its own copy"), (Natural(), r"the spec Natural\(\) is read as")],
    "other lengths are refused": [(Broken(decode_=takes_any_length), "bytes are decoded where a message takes")],
    "any bytes decode inside d or are refused": [
        (Broken(decode_=trusts_every_byte), r"has the index (\d+), outside \[0, \1\)"),
        (Broken(decode_=lambda inner, wire, d: [][int(wire.sum())]), "raised IndexError"),
    ],
    "constants are numbers in range": [
        (Broken(constants=(-0.5, None)), r"omega\(0\) is -0.5"),
        (Broken(constants=(None, 1.5)), r"delta\(0\) is 1.5"),
    ],
    "unbiased with variance omega": [
        (Broken(inner=gw.compress.RandK(0.5, unbiased=False), constants=(1.0, None)), r"promises E C\(x\) = x"),
        (
            Broken(constants=(0.9, None)),
            r"omega = 0.9 promises E \|C\(x\) - x\|\^2 <= 0.9 \|x\|\^2, and it is (1|0\.99)",
        ),
    ],
    "contracts by delta": [
        (Broken(inner=gw.compress.TopK(0.5), constants=(None, 0.6)), r"delta = 0.6 promises"),
    ],
    "rows err as vectors do": [(Broken(encode_=halves_rows), "on average over rows, .* over steps")],
}


@pytest.mark.parametrize(("law", "number"), [(law, i) for law, cases in COMPRESSORS.items() for i in range(len(cases))])
def test_a_broken_operator_is_caught_by_its_law(law: str, number: int) -> None:
    op, words = COMPRESSORS[law][number]
    with pytest.raises(BrokenLaw, match=words) as caught:
        check_compressor(op, laws=[law])
    assert f"breaks the law '{law}' (" in str(caught.value)


def test_every_law_of_compressors_can_fail() -> None:
    assert COMPRESSORS.keys() == COMPRESSOR_LAWS.keys()
    assert all(COMPRESSORS.values())


def test_what_is_caught_names_all_that_is_needed_to_see_it_again() -> None:
    with pytest.raises(AssertionError) as caught:
        check_compressor(Broken(inner=gw.compress.TopK(0.5), decode_=one_too_far), seed=3)
    assert str(caught.value).endswith(
        "breaks the law 'bytes are as promised' (d = 1, seed = 3): what is decoded of normal has the index 1, "
        "outside [0, 1)"
    )


# ---- exchanges


@dataclass(frozen=True)
class Average:
    """The plain average with some methods replaced."""

    sent: Callable | None = None
    """(x, total, turn) -> own, mean; the law's by default."""
    ask: Callable | None = None
    """(x, turn) -> the tensor that is summed."""
    state: Callable | None = None
    """() -> what `init` makes beside nothing."""
    move: Callable | None = None
    """(x, state, turn): what a step does to the state."""
    constants: tuple[float | None, float | None] = (None, None)

    def init(self, layout, dtype=torch.float32, device="cpu", batch_shape=()):
        return self.state(layout) if self.state else {}

    async def __call__(self, x, state, turn):
        total = await gw.AllReduce(self.ask(x, turn) if self.ask else x.clone())
        if self.move:
            self.move(x, state, turn)
        own, mean = self.sent(x, total, turn) if self.sent else (x.clone(), total / turn.size)
        return gw.Sent(own=gw.Dense(own), mean=gw.Dense(mean))

    def omega(self, d):
        return self.constants[0]

    def delta(self, d):
        return self.constants[1]


@dataclass(frozen=True)
class AsksByValue(Average):
    async def __call__(self, x, state, turn):
        if (x > 0).any():
            await gw.AllReduce(x[:1].clone())
        return await Average.__call__(self, x, state, turn)


@dataclass(frozen=True)
class Forgetful(gw.memory.EF):
    """Error feedback that loses a tenth of what it has not sent."""

    async def __call__(self, x, state, turn):
        sent = await gw.memory.EF.__call__(self, x, state, turn)
        state["error"].mul_(0.9)
        return sent


@dataclass(frozen=True)
class Trusting(Average):
    """An exchange that sends the value at whatever index rank 0 names."""

    index: bool = False

    async def __call__(self, x, state, turn):
        place = await gw.Broadcast(x.abs().argmax().view(1), 0)
        values = x[place] if self.index else x[:1].clone()
        total = await gw.AllReduce(values.clone())
        return gw.Sent(own=gw.Sparse(place, values, len(x)), mean=gw.Sparse(place, total / turn.size, len(x)))


@dataclass(frozen=True)
class Careless(gw.memory.EF):
    """Error feedback that keeps its errors unchanged when the number of workers changes."""

    async def change(self, state, change):
        pass


@dataclass(frozen=True)
class Lonely(Average):
    """An exchange whose workers each keep different replicated state."""

    async def change(self, state, change):
        state["threshold"].fill_(float(change.joined))


@dataclass(frozen=True)
class Unlike(Average):
    """An exchange that sends twice as much when batched."""

    async def __call__(self, x, state, turn):
        if isinstance(turn.rank, slice):
            await gw.AllReduce(x.clone())
        return await Average.__call__(self, x, state, turn)


@dataclass(frozen=True)
class Shaky(Average):
    """An exchange with twice the noise when batched."""

    async def __call__(self, x, state, turn):
        noise = torch.randn(x.shape, generator=turn.rng(shared=False), dtype=x.dtype)
        return await Average.__call__(self, x + noise * (2 if isinstance(turn.rank, slice) else 1), state, turn)


def grown(x, state, turn):
    state["v"] = torch.zeros(len(state["v"]) + 1)


def renamed(x, state, turn):
    state["new"] = state["v"]


def narrowed(x, state, turn):
    state["v"] = state["v"].to(x.dtype)


def by_rank(x, state, turn):
    state["threshold"].fill_(0.0 if isinstance(turn.rank, slice) else float(turn.rank))


def vector(layout):
    return {"v": torch.zeros(layout.d)}


def number(layout):
    return {"threshold": torch.zeros(3)}


EXCHANGES = {
    "all workers know one mean": [
        (Average(sent=lambda x, total, turn: (x.clone(), x.clone())), "worker 1's mean is not worker 0's"),
        (Average(sent=lambda x, total, turn: (x.clone(), total)), "the average of the 2 workers' own is not the mean"),
        (Average(sent=lambda x, total, turn: (x / 0, total)), "worker 0's own holds a value that is not finite"),
    ],
    "the law holds in the dtypes of training": [
        (
            Average(sent=lambda x, total, turn: (x.clone(), (total / turn.size).bfloat16())),
            r"the mean of torch.float32 is bfloat16\[658\]|the average of the 3 workers' own is not the mean",
        ),
        (Average(sent=lambda x, total, turn: (x.clone(), (total * (1 / 3 + 1e-4)))), "is not the mean"),
    ],
    "x is only read": [
        (Average(sent=lambda x, total, turn: (x, total / turn.size)), "own shares memory with x"),
        (Average(ask=lambda x, turn: x.mul_(2)), "x is written to"),
    ],
    "the seed decides": [(Average(ask=lambda x, turn: x + torch.rand(1)), "two runs of one seed have other means")],
    "tiny vectors are ordinary": [(Average(ask=lambda x, turn: x / x.abs().max()), "raised IndexError|RuntimeError")],
    "zeros stay zero": [
        (Average(sent=lambda x, total, turn: (x + 1, total / turn.size + 1)), "the mean of zeros is not zero: 1 and 0"),
    ],
    "workers ask alike": [(AsksByValue(), r"worker 0 asked for AllReduce\(float32\[658\]\) and worker 1 for")],
    "states keep their form": [
        (Average(state=vector, move=grown), r"v was float32\[658\] and is float32\[659\]"),
        (Average(state=vector, move=renamed), r"init names \['v'\], and a step leaves \['new', 'v'\]"),
        (Average(state=vector, move=narrowed), "v is bfloat16.*narrower than float32"),
        (Average(state=number, move=by_rank), "threshold, which is replicated, differs between worker 1 and worker 0"),
    ],
    "what is not sent is kept": [
        (Forgetful(gw.exchange.Gathered(gw.compress.TopK(0.1))), "own plus the new error is not x plus the old error"),
    ],
    "workers come and go": [
        (Careless(gw.exchange.Gathered(gw.compress.TopK(0.1))), "the mean error is not what it was of those who stay"),
        (Lonely(state=number), "threshold, which is replicated, differs between worker 2 and worker 0"),
    ],
    "the repr is a spec": [(type("Odd", (Average,), {"__eq__": object.__eq__, "__hash__": object.__hash__})(), "copy")],
    "answers keep their dtype": [],
    "a batch is n workers": [
        (Unlike(), r"lockstep counts AllReduce \(\d+, \d+\) \(calls, bytes\), batched"),
        (Average(sent=lambda x, total, turn: (x + turn.rng(shared=True).initial_seed() % 2, total)), "batched"),
        (Shaky(), "a moment of the mean is .* batched and .* in lockstep"),
        (
            Average(ask=lambda x, turn: x.flip(0) * torch.ones(len(x), 1) if x.ndim > 1 else x / 2),
            "batched",
        ),
    ],
    "corrupted answers are refused or stay inside d": [
        (Trusting(index=True), "the worker ends in IndexError: index .* is out of bounds"),
        (Trusting(), r"own has indices from .*, where d is \d+"),
    ],
    "own keeps its constants": [
        (Average(constants=(0.0, None), sent=lambda x, total, turn: (x / 2, total / 2)), r"promises E C\(x\) = x"),
        (Average(constants=(None, 0.9), sent=lambda x, total, turn: (x / 2, total / 2)), "delta = 0.9 promises"),
    ],
}


@pytest.mark.parametrize(("law", "number"), [(law, i) for law, cases in EXCHANGES.items() for i in range(len(cases))])
def test_a_broken_exchange_is_caught_by_its_law(law: str, number: int) -> None:
    exchange, words = EXCHANGES[law][number]
    with pytest.raises(BrokenLaw, match=words) as caught:
        check_exchange(exchange, laws=[law])
    assert f"breaks the law '{law}' (" in str(caught.value)


@pytest.mark.parametrize("method", ["answers", "batched", "alone"])
def test_an_answer_of_another_dtype_is_caught(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is caught on every transport, because the ask itself defines the answer."""
    right = vars(gw.AllReduce)[method]

    def wider(self, given):
        answer = right(self, given)
        return [one.double() for one in answer] if method == "answers" else answer.double()

    monkeypatch.setattr(gw.AllReduce, method, wider)
    with pytest.raises(BrokenLaw, match=r"'answers keep their dtype' .*: the answer to AllReduce\(float32") as caught:
        check_exchange("mean", laws=["answers keep their dtype"])
    transport = {"answers": "lockstep", "batched": "batched", "alone": "a rehearsal of one worker"}[method]
    assert f"transport = {transport}," in str(caught.value)


def test_every_law_of_exchanges_can_fail() -> None:
    assert EXCHANGES.keys() == EXCHANGE_LAWS.keys()
    assert [law for law, cases in EXCHANGES.items() if not cases] == ["answers keep their dtype"]


def test_strangers_that_obey_pass() -> None:
    check_compressor(Broken())
    check_exchange(Average(constants=(0.0, 1.0)))


def test_a_number_of_workers_of_ones_own() -> None:
    check_exchange(gw.exchange.PermK(4), workers=[4])
    with pytest.raises(BrokenLaw, match="divides the coordinates among 4 workers, and this run has 1"):
        check_exchange("permk(workers=4)", laws=["all workers know one mean"])


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (lambda: check_compressor(gw.compress.TopK), "check_compressor takes a compressor or its spec, got <class"),
        (lambda: check_compressor("mean"), "mean is not a compressor"),
        (lambda: check_exchange(3), "check_exchange takes an exchange or its spec, got 3"),
        (lambda: check_exchange("mean", laws=["thou shalt not"]), "there is no law 'thou shalt not'; the laws are"),
    ],
)
def test_what_cannot_be_checked_is_refused(check: Callable[[], None], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        check()
