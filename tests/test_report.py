"""The record's rules on hand-made curves, and the page's promises: self-contained, well-formed,
reproducible, honest.
"""

import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from gradwire import report
from gradwire.lab.comparison.record import Comparison, Point, Run, Split
from gradwire.report import labels, style, words

NAN, INF = math.nan, math.inf
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def curve(*at: tuple[float, float]) -> tuple[Point, ...]:
    """Make points from (seconds, loss), with ten steps and 2 MB a second."""
    return tuple(Point(int(10 * seconds), float(seconds), int(2e6 * seconds), float(loss)) for seconds, loss in at)


def run(name: str, points: tuple[Point, ...], **fields: Any) -> Run:
    about: dict[str, Any] = {
        "spec": f"{name.lower()}()",
        "split": Split(0.04, 0.01, 0.05),
        "step_seconds": 0.1,
        "step_seconds_low": 0.09,
        "step_seconds_high": 0.12,
        "ledger_bytes": 1_000_000,
        "link_bytes": 1_040_000,
        "link_packets": 500,
    }
    return Run(name, points=points, **{**about, **fields})


def compare(*runs: Run, **fields: Any) -> Comparison:
    about: dict[str, Any] = {
        "title": "a test",
        "model": "a byte model",
        "corpus": "some text",
        "link": "100 Mbit/s between network namespaces",
        "ranks": 4,
        "budget_seconds": 100.0,
        "command": "gradwire compare --seconds 100",
        "versions": {"gradwire": "0.1.0"},
        "note": "",
    }
    return Comparison(runs=runs, **{**about, **fields})


DENSE = run("dense DDP", curve((0, 5.5), (50, 4.0), (100, 3.0)), split=Split(0.04, 0.0, 1.16), ledger_bytes=50_000_000)
FAST = run("EF(DEFT) 1 %", curve((0, 5.5), (10, 3.5), (20, 2.5), (100, 2.0)), spec="ef(deft(density=0.01))")
NEVER = run("slow", curve((0, 5.5), (100, 3.4)))
BAD = run("diverged", curve((0, 5.5), (10, 2.9), (20, NAN), (30, INF)))

CASES = {
    "realistic": compare(DENSE, FAST, NEVER, note="Two ranks share a core."),
    "diverged": compare(DENSE, BAD, FAST),
    "dense diverged": compare(replace(DENSE, points=curve((0, 5.5), (100, NAN))), FAST),
    "one point": compare(replace(DENSE, points=DENSE.points[-1:]), replace(FAST, points=FAST.points[-1:])),
    "two points": compare(replace(DENSE, points=DENSE.points[::2]), replace(FAST, points=FAST.points[::3])),
    "only step 0": compare(replace(DENSE, points=curve((0, 5.5))), replace(FAST, points=curve((0, 5.5)))),
    "nothing finite": compare(run("a", curve((0, NAN))), run("b", curve((0, INF)))),
    "alone": compare(DENSE),
    "nothing pays": compare(DENSE, NEVER, link="loopback (the kernel refused namespaces: EPERM)"),
    "nothing measured": compare(*(run("a", curve((1, 2)), split=Split(part, 0.0, 0.0)) for part in (NAN, 0.0))),
    "nothing sent": compare(replace(DENSE, points=tuple(replace(point, sent_bytes=0) for point in DENSE.points)), FAST),
    "huge": compare(DENSE, run("x" * 300, curve((0, 1e300), (1e9, 1e300)))),
    "many": compare(DENSE, *(replace(FAST, name=f"run {index}") for index in range(25))),
    "hostile": compare(DENSE, run('<script src="http://x">&$\\frac$', FAST.points, spec="<b>&"), title="</title><img>"),
}
PAGES: dict[str, str] = {}


def page(case: str) -> str:
    """Render a case's page once."""
    if case not in PAGES:
        PAGES[case] = report.render(CASES[case])
    return PAGES[case]


def drawings(html: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg\b.*?</svg>", html, re.DOTALL)]  # our own text


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html.replace("&nbsp;", " ").replace("&#x27;", "'")))


# The record: rules.


def test_the_first_crossing_is_interpolated() -> None:
    both = compare(DENSE, FAST)
    assert both.seconds_to_baseline(FAST) == 15.0  # 3.0 is halfway from 3.5 (10 s) to 2.5 (20 s)
    assert both.speedup(FAST) == pytest.approx(100 / 15, rel=1e-12)
    assert both.crossing(FAST) == Point(150, 15.0, 30_000_000, 3.0)


def test_the_baseline_reaches_its_own_loss_at_its_end_exactly() -> None:
    awkward = run("dense", curve((0, 5.1), (0.1, 3.3), (0.7, 1.1)))
    assert compare(awkward).seconds_to_baseline(awkward) == 0.7
    assert compare(awkward).speedup(awkward) == 1.0


def test_a_later_rise_does_not_undo_the_first_crossing() -> None:
    bounces = run("bounces", curve((0, 5.0), (10, 2.0), (20, 4.0), (30, 1.0)))
    assert compare(DENSE, bounces).seconds_to_baseline(bounces) == pytest.approx(20 / 3)
    dips = replace(DENSE, points=curve((0, 5.0), (50, 2.0), (100, 3.0)))
    assert compare(dips).speedup(dips) == pytest.approx(3.0)  # its own curve passed 3.0 at 33.3 s


def test_never_is_none() -> None:
    both = compare(DENSE, NEVER)
    assert both.seconds_to_baseline(NEVER) is None
    assert both.speedup(NEVER) is None


def test_a_single_evaluation_counts_from_where_it_is() -> None:
    point = replace(FAST, points=FAST.points[-1:])
    assert compare(DENSE, point).seconds_to_baseline(point) == 100.0


@pytest.mark.parametrize("gap", [NAN, INF])
def test_no_line_is_drawn_from_a_loss_that_is_not_finite(gap: float) -> None:
    broken = run("broken", curve((0, 5.0), (10, gap), (20, 2.0)))
    assert compare(DENSE, broken).seconds_to_baseline(broken) == 20.0


@pytest.mark.parametrize("loss", [NAN, INF, -INF])
def test_a_target_that_is_not_finite_is_reached_by_nobody(loss: float) -> None:
    dense = replace(DENSE, points=curve((0, 5.5), (100, loss)))
    assert compare(dense, FAST).seconds_to_baseline(FAST) is None


def test_reached_before_any_training_has_no_speedup() -> None:
    untrained = replace(DENSE, points=curve((0, 5.5), (100, 5.5)))
    assert compare(untrained, FAST).seconds_to_baseline(FAST) == 0.0
    assert compare(untrained, FAST).speedup(FAST) is None


def test_the_link_is_its_payload_and_one_header_a_packet() -> None:
    """Each of the 500 packets has Ethernet 14 + IPv4 20 + TCP 20 bytes, and 12 for TCP's timestamps."""
    assert FAST.headers == 500 * (14 + 20 + 20 + 12)
    assert FAST.link_payload == 1_040_000 - 33_000
    silent = replace(FAST, link_bytes=0, link_packets=0)
    assert (silent.headers, silent.link_payload) == (0, 0)


# The record: text.


@pytest.mark.parametrize("case", CASES)
def test_json_round_trip(case: str) -> None:
    text = CASES[case].to_json()
    again = Comparison.from_json(text)
    assert again.to_json() == text
    assert repr(again) == repr(CASES[case])  # equal but for NaN, which is never equal
    json.loads(text, parse_constant=pytest.fail)  # strict: no bare NaN or Infinity


def test_equal_after_a_round_trip() -> None:
    assert Comparison.from_json(CASES["realistic"].to_json()) == CASES["realistic"]


def broken(*path: str | int, value: object = ...) -> str:
    """Return the realistic record with one value replaced or one key removed."""
    record = json.loads(CASES["realistic"].to_json())
    place = record
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(record)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "the comparison must be an object"),
        ("{}", "the comparison lacks 'budget_seconds'"),
        (broken("link"), "the comparison lacks 'link'"),
        (broken("color", value=1), "the comparison has an unknown field 'color'"),
        (broken("ranks", value=True), "ranks must be a whole number"),
        (broken("ranks", value=2.5), "ranks must be a whole number"),
        (broken("title", value=None), "title must be text"),
        (broken("versions", value={"torch": 2}), "versions['torch'] must be text"),
        (broken("runs", value={}), "runs must be a list"),
        (broken("runs", value=[]), "at least one run"),
        (broken("runs", 1, "link_packets"), "runs[1] lacks 'link_packets'"),
        (broken("runs", 1, "points", value=[]), "at least one point"),
        (broken("runs", 1, "points", 2, "loss"), "runs[1]: points[2] lacks 'loss'"),
        (broken("runs", 1, "points", 2, "loss", value="low"), "runs[1]: points[2]: loss must be a number, got 'low'"),
        (broken("runs", 1, "points", 2, "loss", value=10**400), "loss must be a number"),
        (broken("runs", 1, "points", 2, "seconds", value="NaN"), "seconds must be finite"),
        (broken("runs", 1, "points", 2, "seconds", value=-1), "seconds must be finite and not negative"),
        (broken("runs", 1, "points", 2, "seconds", value=1), "in order of time"),
    ],
)
def test_malformed_text_is_refused_in_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)) as refusal:
        Comparison.from_json(text)
    assert "\n" not in str(refusal.value)


# The page: promises.


class Links(HTMLParser):
    """Collects what a browser would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"script", "link", "img", "image", "iframe", "object", "embed", "base", "video", "audio", "source"}:
            self.found.append(tag)
        self.found += [f"{key}={value}" for key, value in attrs if key in {"src", "srcset", "href", "xlink:href"}]


@pytest.mark.parametrize("case", CASES)
def test_the_page_is_self_contained(case: str) -> None:
    links = Links()
    links.feed(page(case))
    assert [link for link in links.found if not link.startswith("href=#")] == []
    assert all(target.startswith("#") for target in re.findall(r"url\(\s*['\"]?([^)]*)", page(case)))
    assert "@import" not in page(case)
    assert "@font-face" not in page(case)
    addresses = set(re.findall(r"https?://[^\s\"'<>)]*", page(case).replace("http://x", "")))  # x: a hostile run's name
    assert addresses == {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("case", CASES)
def test_drawings_are_well_formed_and_ids_unique(case: str) -> None:
    assert len(drawings(page(case))) == 6  # three figures, each wide and narrow
    ids = re.findall(r'\bid="([^"]*)"', page(case))
    assert len(ids) == len(set(ids))
    used = re.findall(r'(?:href="#|url\(#)([^")]*)', page(case))
    assert set(used) <= set(ids)
    assert not re.search(r"#0a0b|DejaVu", page(case))  # no token of a colour is left, nor the measuring font
    for svg in drawings(page(case)):
        assert svg.get("role") == "img"
        assert len(svg.get("aria-label", "")) > 30
        assert re.fullmatch(r"0 0 (1080|380) \d+", svg.get("viewBox", ""))


@pytest.mark.parametrize("case", CASES)
def test_every_tag_is_closed(case: str) -> None:
    html = re.sub(r"<meta[^>]*>|<wbr>|<!DOCTYPE html>", "", page(case))
    ElementTree.fromstring(re.sub(r"&(ndash|nbsp);", " ", html))  # raises where the nesting is wrong


def test_the_same_record_gives_the_same_page_whatever_matplotlib_is_told() -> None:
    import matplotlib

    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path", "text.usetex": True}):
        changed = report.render(CASES["realistic"])
        assert matplotlib.rcParams["font.size"] == 30  # and gives the settings back
    assert changed == page("realistic")


def test_the_page_is_accessible() -> None:
    html = page("realistic")
    assert '<html lang="en">' in html
    assert "<title>At 100 Mbit/s" in html
    assert html.count('<th scope="row">') == 3
    assert not re.search(r"<th(?![^>]*scope=)[ >]", html)
    assert html.count("<h1>") == 1


def test_colours_are_apart_for_every_eye_and_legible_as_text() -> None:
    """By Machado et al. 2009, severity 1 (protanopia, deuteranopia, tritanopia), distances in OKLab, contrast by WCAG
    2.
    """
    eyes = (
        ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
        ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
        ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
        ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
    )
    for side, card in enumerate(style.CARD):
        colours = [linear(pair[side]) for pair in style.PALETTE]
        for eye, (one, other) in itertools.product(eyes, itertools.combinations(colours, 2)):
            assert math.dist(oklab(times(eye, one)), oklab(times(eye, other))) > 0.08
        assert all(contrast(colour, linear(card)) >= 4.5 for colour in colours)  # WCAG AA for text


def linear(colour: str) -> list[float]:
    shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]


def times(matrix: Any, vector: list[float]) -> list[float]:
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def contrast(one: list[float], other: list[float]) -> float:
    low, high = sorted(sum(times(((0.2126, 0.7152, 0.0722),), colour)) + 0.05 for colour in (one, other))
    return high / low


def oklab(colour: list[float]) -> list[float]:
    cones = times(
        ((0.4122214708, 0.5363325363, 0.0514459929), (0.2119034982, 0.6806995451, 0.1073969566),
         (0.0883024619, 0.2817188376, 0.6299787005)),
        [min(max(share, 0.0), 1.0) for share in colour],
    )  # fmt: skip
    rows = ((0.2104542553, 0.7936177850, -0.0040720468), (1.9779984951, -2.4285922050, 0.4505937099),
            (0.0259040371, 0.7827717662, -0.8086757660))  # fmt: skip
    return times(rows, [cone ** (1 / 3) for cone in cones])


# The page: stories.


def headline(*runs: Run, **fields: Any) -> str:
    return re.findall(r"<title>(.*?)</title>", report.render(compare(*runs, **fields)))[0].replace("&#x27;", "'")


def test_the_headline_states_the_finding() -> None:
    finding = (
        "At 100 Mbit/s, EF(DEFT) 1 % reached dense DDP's final loss 6.7 times sooner and with 6.7 times fewer bytes"
    )
    assert headline(DENSE, NEVER, FAST) == finding
    silent = replace(FAST, points=tuple(replace(point, sent_bytes=0) for point in FAST.points))
    assert headline(DENSE, silent) == finding.removesuffix(" and with 6.7 times fewer bytes")


def test_the_headline_says_plainly_that_nothing_paid() -> None:
    verdict = "fewer bytes did not pay: no run reached dense DDP's final loss sooner than dense DDP itself"
    assert headline(DENSE, NEVER, link="loopback (no namespaces)") == f"On loopback, {verdict}"
    later = replace(FAST, points=curve((0, 5.5), (110, 2.9)))
    assert headline(DENSE, later) == f"At 100 Mbit/s, {verdict}"
    assert "slow" in text_of(page("nothing pays"))
    assert f"{later.name} (106 s)" in text_of(report.render(compare(DENSE, later)))


def test_a_hair_sooner_is_not_sooner() -> None:
    hair = replace(FAST, points=curve((0, 5.5), (99.9, 3.0)))
    assert "did not pay" in headline(DENSE, hair)


def test_a_run_must_beat_the_baselines_own_first_crossing() -> None:
    dips = replace(DENSE, points=curve((0, 5.0), (50, 2.0), (100, 3.0)))  # passes its final loss at 33.3 s
    assert "did not pay" in headline(dips, replace(FAST, points=curve((0, 5.0), (50, 3.0))))
    html = report.render(compare(dips, FAST))
    assert "EF(DEFT) 1 % reached" in html
    assert "The loss of dense DDP itself first passed its final value 3.0 times sooner" in text_of(html)


def test_a_winner_that_does_not_stay_is_called_so_and_yields_to_one_that_does() -> None:
    assert headline(DENSE, BAD).endswith("times fewer bytes, but did not stay there")
    assert "EF(DEFT) 1 % reached" in headline(DENSE, BAD, FAST)


def test_a_first_evaluation_below_the_target_is_only_a_bound() -> None:
    early = replace(FAST, points=curve((20, 2.5), (100, 2.0)))
    assert "at least 5.0 times sooner" in headline(DENSE, early)
    assert "≤ 20 s" in text_of(report.render(compare(DENSE, early)))


def test_headlines_where_there_is_no_finding() -> None:
    assert headline(DENSE) == "Only dense DDP was measured: there is nothing to compare"
    assert "not a finite number" in headline(replace(DENSE, points=curve((0, 5.5), (100, NAN))), FAST)
    assert "learned nothing in 100 s" in headline(replace(DENSE, points=curve((0, 5.5), (100, 5.6))), FAST)


def test_the_page_says_what_went_wrong() -> None:
    assert "diverged: the loss was not finite, first at step 200 (20 s)." in text_of(page("diverged"))
    assert "then not finite" in page("diverged")
    assert "Runs that never reached dense DDP's final loss within the budget: slow." in text_of(page("realistic"))
    assert "EF(DEFT) 1 %: only one evaluation" in text_of(page("one point"))
    assert "Two ranks share a core." in text_of(page("realistic"))
    assert "no counter of its own" in text_of(report.render(compare(replace(DENSE, link_bytes=0, link_packets=0))))
    assert "What to keep in mind" not in report.render(compare(DENSE, FAST))


def test_the_table_has_the_numbers() -> None:
    row = re.findall(r'<tr class="best">.*?</tr>', page("realistic"), re.DOTALL)
    assert len(row) == 1
    told = text_of(row[0].replace("&ndash;", "-").replace("<wbr>", ""))
    expected = "EF(DEFT) 1 % ef(deft(density=0.01)) 1,000 100 [90-120] 0.00100 0.00104 3.2 % 1.007 2.000 15 s 6.7"
    assert told.split() == (expected + words.TIMES).split()


def test_without_a_counter_the_table_has_dashes() -> None:
    silent = report.render(compare(DENSE, replace(FAST, link_bytes=0, link_packets=0)))
    cells = re.findall(r"<td>(.*?)</td>", re.findall(r'<tr class="best">.*?</tr>', silent, re.DOTALL)[0])
    assert cells[2:6] == ["0.00100", "&ndash;", "&ndash;", "&ndash;"]


def test_the_page_says_what_the_two_counts_should_agree_to() -> None:
    assert "(Link less headers) / ledger should be within 5 % of 1; headers are 66 bytes" in text_of(page("realistic"))


def test_names_are_text_everywhere() -> None:
    assert "<script" not in page("hostile")
    assert "<img" not in page("hostile")
    told = {element.text for svg in drawings(page("hostile")) for element in svg.iter() if element.text}
    assert any(word.startswith('<script src="http:') for word in told)  # in full or cut short, but never as a formula
    assert "&lt;script" in page("hostile")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0138, "0.0138"), (0.27, "0.270"), (1.38, "1.38"), (60.0, "60"), (99.96, "100.0"), (1380.4, "1,380")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert words.number(value) == text


@pytest.mark.parametrize("wanted", [[0.5], [0.1, 0.1, 0.1], [1.0, 1.0, 0.0], [0.9, 0.2, 0.25, 0.21], [0.5] * 40])
def test_labels_never_overlap(wanted: list[float]) -> None:
    places = labels.spread(wanted, 0.2)
    gap = min(0.2, 1 / max(1, len(wanted) - 1))
    order = sorted(range(len(wanted)), key=lambda index: places[index])
    assert all(places[b] - places[a] >= gap - 1e-9 for a, b in itertools.pairwise(order))  # rounding
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)
    assert [wanted[index] for index in order] == sorted(wanted)


def test_labels_with_room_stay_where_they_are() -> None:
    assert labels.spread([0.9, 0.1, 0.5], 0.2) == pytest.approx([0.9, 0.1, 0.5])


def test_write_leaves_the_whole_page_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    report.write(CASES["realistic"], path)
    assert path.read_text(encoding="utf-8") == page("realistic")
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def refuse(*_: object) -> None:
        raise OSError("disk")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="disk"):
        report.write(CASES["alone"], path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="the report's folder must exist"):
        report.write(CASES["alone"], tmp_path / "none" / "report.html")


def test_without_matplotlib_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"^the report needs matplotlib: pip install 'gradwire\[cli\]'$"):
        report.render(CASES["alone"])


def test_importing_the_report_does_not_import_matplotlib() -> None:
    script = "import sys, gradwire.report; sys.exit('matplotlib' in sys.modules)"
    subprocess.run(
        [sys.executable, "-c", script], check=True, env={"PYTHONPATH": str(Path(report.__file__).parents[2])}
    )


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH to open the page in")
def test_a_browser_opens_the_page_without_a_word_on_its_console(tmp_path: Path) -> None:
    def spoken(html: str) -> tuple[list[str], str]:
        path = tmp_path / "page.html"
        path.write_text(html, encoding="utf-8")
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0", "--dump-dom"]
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        done = subprocess.run(
            [str(CHROMIUM), *flags, profile, path.as_uri()], capture_output=True, text=True, timeout=60, check=True
        )
        return [line for line in done.stderr.splitlines() if "CONSOLE" in line], done.stdout

    heard, _ = spoken("<script>console.error('heard')</script>")
    assert heard  # else the silence below would mean nothing
    complaints, dom = spoken(page("realistic"))
    assert complaints == []
    assert dom.count("<svg") == 6
