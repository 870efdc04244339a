"""The registry: what registers, what is refused, and the promises of every registered part."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest
import zoo
from stranger import install
from torch import Tensor

import gradwire as gw
from gradwire import registry, spec
from gradwire.memory.shift import Rule

OURS = [entry for entry in registry.PARTS.values() if entry.origin.startswith("gradwire.")]
by_name = pytest.mark.parametrize("entry", OURS, ids=lambda entry: entry.name)


pytestmark = pytest.mark.usefixtures("forget")


@by_name
def test_the_example_of_a_part_uses_it_and_can_be_read(entry: registry.Entry) -> None:
    assert entry.name in entry.example
    assert spec.as_outer(entry.example, "a test") if entry.kind == "outer" else gw.parse(entry.example)


@by_name
def test_a_part_has_a_line_of_documentation(entry: registry.Entry) -> None:
    assert entry.summary.endswith(".")


@by_name
def test_a_part_is_of_its_kind(entry: registry.Entry) -> None:
    """Its package and the object it makes agree with the kind it names."""
    packages = {
        "compressor": "compress",
        "exchange": "exchange",
        "memory": "memory",
        "rule": "memory",
        "outer": "outer",
    }
    assert entry.origin.split(".")[1] == packages[entry.kind]
    made = spec.build(entry.example)
    if entry.kind == "rule":
        assert isinstance(made.rule, Rule)
    elif type(made).__name__.lower() == entry.name:
        assert isinstance(made, gw.Compressor) == (entry.kind == "compressor")


@by_name
def test_a_part_is_in_the_zoo(entry: registry.Entry) -> None:
    """Parts that depend on the number of workers, such as PermK, are tried where workers are counted."""
    if entry.kind == "outer":
        assert any(text.startswith(entry.name) for text in zoo.OUTERS), entry.name
    else:
        assert entry.name == "permk" or any(entry.name in repr_of(text) for text in zoo.SPECS), entry.name


def repr_of(text: str) -> str:
    """Return a spec as the repr of the object it makes, in which named constructors are spelt out."""
    return f"{text} {gw.parse(text)!r}".lower()


def test_every_exported_class_of_a_part_package_is_registered() -> None:
    makers = {entry.make for entry in OURS}
    for package in (gw.compress, gw.exchange, gw.memory):
        for name, found in vars(package).items():
            constructs = isinstance(found, type) and {"delta", "omega"} <= set(dir(found))
            protocol = getattr(found, "_is_protocol", False)
            assert not constructs or protocol or found in makers, name


def test_a_class_registers_and_is_read_printed_and_listed() -> None:
    @gw.register("halved", "compressor", example="halved(inner=natural)")
    @dataclass(frozen=True)
    class Halved:
        """Half of what another compressor sends."""

        inner: gw.Compressor

        def encode(self, x: Tensor, turn: gw.Turn) -> Tensor:
            return self.inner.encode(x / 2, turn)

        def decode(self, wire: Tensor, d: int) -> object:
            return self.inner.decode(wire, d)

        def nbytes(self, d: int) -> int:
            return self.inner.nbytes(d)

        def omega(self, d: int) -> None:
            return None

        def delta(self, d: int) -> float:
            return 0.25

    assert spec.build("halved(natural)") == Halved(gw.compress.Natural())
    assert gw.parse("ef(halved(topk(0.1)))").exchange.compressor.inner == gw.compress.TopK(0.1)
    assert registry.parts("compressor")["halved"].summary == "Half of what another compressor sends."
    with pytest.raises(gw.SpecError, match="halved takes a compressor, got Mean"):
        gw.parse("halved(mean)")


def test_a_part_is_its_name_and_its_definition() -> None:
    def define() -> type:
        @gw.register("notebook", "exchange", example="notebook")
        class Notebook:
            """A class in a notebook's cell that is executed again."""

        return Notebook

    first, second = define(), define()
    assert first is not second is registry.PARTS["notebook"].make


@pytest.mark.parametrize(
    ("name", "kind", "sentence"),
    [
        ("Top-K", "compressor", "lower-case letters and digits and no word of Python, got 'Top-K'"),
        ("top_k", "compressor", "lower-case letters and digits and no word of Python, got 'top_k'"),
        ("", "compressor", "lower-case letters and digits and no word of Python, got ''"),
        ("2bit", "compressor", "lower-case letters and digits and no word of Python, got '2bit'"),
        ("lambda", "compressor", "lower-case letters and digits and no word of Python, got 'lambda'"),
        ("none", "exchange", "'none' means something else already; reserved are auto, dense, false, none, true"),
        ("auto", "exchange", "'auto' means something else already"),
        ("mine", "operator", "kind is one of compressor, exchange, memory, rule, outer, got 'operator'"),
        ("topk", "compressor", "'topk' is taken by gradwire.compress.topk.TopK, so .*make needs another"),
        ("ef21", "memory", "'ef21' is taken by gradwire.memory.shift.EF21, so .*make needs another"),
    ],
)
def test_a_bad_name_or_kind_is_refused_in_one_sentence(name: str, kind: registry.Kind, sentence: str) -> None:
    def make() -> None: ...

    before = dict(registry.PARTS)
    with pytest.raises(ValueError, match=sentence) as refused:
        gw.register(name, kind, example="mean")(make)
    assert "\n" not in str(refused.value)
    assert before == registry.PARTS


def test_a_class_under_another_name_is_refused() -> None:
    class Very_Own:
        """A part whose repr would be Very_Own(...)."""

    with pytest.raises(ValueError, match=r"Very_Own must be registered as 'veryown', so that its repr is a spec"):
        gw.register("mine", "compressor", example="mine")(Very_Own)
    gw.register("veryown", "compressor", example="veryown")(Very_Own)
    assert isinstance(spec.build("very_own()"), Very_Own)


def test_annotations_tell_roles_whatever_parameters_are_called() -> None:
    @gw.register("mixture", "memory", example="mixture(topk(density=0.1), natural)")
    def mixture(
        inner: gw.Exchange, first: gw.Compressor, other: gw.Exchange | None = None, size: gw.Exchange | int = 3, by=None
    ) -> dict[str, object]:
        """Take parameters of every role."""
        return {"inner": inner, "first": first, "other": other, "size": size, "by": by}

    gathered, natural = gw.exchange.Gathered(gw.compress.TopK(0.1)), gw.compress.Natural()
    found = spec.build("mixture(topk(0.1), natural)")
    assert found == {"inner": gathered, "first": natural, "other": None, "size": 3, "by": None}
    found = spec.build("mixture(mean, natural, other=natural, size=natural, by=natural)")
    assert (found["other"], found["size"], found["by"]) == (*[gw.exchange.Gathered(natural)] * 2, natural)
    assert spec.build("mixture(mean, natural, none, 7)")["size"] == 7
    for text, sentence in (
        ("mixture(3, natural)", "mixture takes an exchange or a compressor, got 3"),
        ("mixture(none, natural)", "mixture takes an exchange or a compressor, got None"),
        ("mixture(mean, mean)", "mixture takes a compressor, got Mean"),
        ("mixture(mean, natural, 'mean')", "mixture takes an exchange or a compressor, got 'mean'"),
    ):
        with pytest.raises(gw.SpecError, match=sentence):
            spec.build(text)


def test_annotations_that_nobody_can_read_are_refused() -> None:
    @gw.register("hidden", "memory", example="hidden(mean)")
    def hidden(exchange: Unheard) -> None:  # noqa: F821
        """Take a parameter annotated with a name that only type checkers see."""

    with pytest.raises(gw.SpecError, match="annotations of hidden must be readable at run time: name 'Unheard'"):
        spec.build("hidden(mean)")


LOUD = '''
import gradwire

@gradwire.register("loud", "exchange", example="louder(density=0.1)")
def loud():
    """A part of an installed package, whose example is wrong."""
    return gradwire.exchange.Mean()
'''


def test_an_installed_package_is_asked_for_unknown_names_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "loudparts", LOUD)
    install(tmp_path, "brokenparts", "import a_module_that_is_not_there")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.load_installed.cache_clear()
    gw.parse("ef(topk(0.1))")
    assert "loudparts" not in sys.modules
    assert gw.parse("loud") == gw.exchange.Mean()
    assert "loudparts" in sys.modules
    with pytest.raises(gw.SpecError, match=r"unknown name 'lout' .* did you mean 'loud'\?; the parts of brokenparts"):
        gw.parse("lout")


def test_no_module_is_imported_because_a_spec_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lurking.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for text in ("lurking", "lurking()", "lurking.part(0.1)", "ef(lurking)"):
        with pytest.raises(gw.SpecError):
            gw.parse(text)
    assert "lurking" not in sys.modules


def test_kinds_are_listed_in_one_order() -> None:
    assert get_args(registry.Kind) == ("compressor", "exchange", "memory", "rule", "outer")
    for kind in get_args(registry.Kind):
        assert list(registry.parts(kind)) == sorted(registry.parts(kind))
