"""The sentences of the page, computed from the record: finding, remarks, how to read it."""

import math
import re

from gradwire.lab.comparison.record import HEADER_BYTES, Comparison, Run
from gradwire.report import view, words

DIPPED = 1.05  # from this factor on the baseline's own speed-up gets a remark; below, it is evaluation noise


def headline(comparison: Comparison) -> str:
    """The finding, in one sentence."""
    dense, points = comparison.baseline.name, comparison.baseline.points
    last = points[-1]
    if len(comparison.runs) == 1:
        return f"Only {dense} was measured: there is nothing to compare"
    if not math.isfinite(last.loss):
        return f"{dense}'s final loss is not a finite number: there is nothing to reach"
    if len(points) > 1 and not last.loss < points[0].loss:
        return f"{dense} learned nothing in {words.number(last.seconds)} s: this comparison says nothing"
    where, winner = _where(comparison.link), words.winner(comparison)
    if not winner:
        return f"{where}, fewer bytes did not pay: no run reached {dense}'s final loss sooner than {dense} itself"
    factor = words.speedup(comparison, winner).replace("≥", "at least")
    left = "" if words.stayed(comparison, winner) else ", but did not stay there"
    return (
        f"{where}, {winner.name} reached {dense}'s final loss {factor} times sooner{_fewer(comparison, winner)}{left}"
    )


def _fewer(comparison: Comparison, winner: Run) -> str:
    """ " and with 1,380 times fewer bytes"; "" if the winner did not send fewer, or if bytes were not counted."""
    here, total = comparison.crossing(winner), comparison.baseline.points[-1].sent_bytes
    if not here or not 0 < here.sent_bytes * words.SOONER <= total:
        return ""
    return f" and with {words.factor(total / here.sent_bytes)} times fewer bytes"


def _where(link: str) -> str:
    """ "100 Mbit/s between network namespaces" -> "At 100 Mbit/s"; "loopback (...)" -> "On loopback"."""
    rate = re.match(r"[\d.,]+\s*[kKMGT]?(bit|B)/s", link)
    return f"At {rate[0]}" if rate else f"On {re.split(r'[(,:;]', link)[0].strip() or 'this link'}"


def deck(comparison: Comparison) -> str:
    """The sentences below the headline: the same finding in seconds, megabytes and losses."""
    dense, winner = comparison.baseline, words.winner(comparison)
    last, here = dense.points[-1], winner and comparison.crossing(winner)
    value = f"{words.loss(last.loss)}{' nats per byte' if math.isfinite(last.loss) else ''}"
    start = f"After {words.number(last.seconds)} s, {dense.name}'s held-out loss was {value}"
    if not winner or not here:
        others = [
            f"{run.name} ({words.reached(comparison, run)})" for run in comparison.runs[1:] if comparison.crossing(run)
        ]
        return f"{start}." + (f" Others that reached it: {', '.join(others)}." if others else "")
    return (
        f"{start} and each rank had sent {words.number(last.sent_bytes / 1e6)} MB; {winner.name} was there after "
        f"{words.reached(comparison, winner)} and {words.number(here.sent_bytes / 1e6)} MB. "
        f"When its own time was up, its loss was {words.loss(winner.points[-1].loss)}."
    )


def noise(comparison: Comparison) -> str:
    """The baseline's evaluation noise, and the range that it gives to the headline's factor; "" if unknown."""
    noise, winner, dense = comparison.noise, words.winner(comparison), comparison.baseline
    if noise is None or not winner:
        return ""
    most, least = (comparison.crossing(winner, above) for above in (noise, -noise))
    if not most or not most.seconds:
        return ""
    high = words.factor(dense.points[-1].seconds / most.seconds)
    low = words.factor(dense.points[-1].seconds / least.seconds) if least else "fewer"
    factors = f"still {low}" if low == high else f"{low} to {high}"
    return (
        f"One evaluation of {dense.name} is about {max(noise, 0.001):.3f} nats from its trend; with its final loss off "
        f"by that much, {winner.name} was there {factors} times sooner."
    )


def remarks(comparison: Comparison) -> list[str]:
    """Caveats of these numbers; empty if there are none."""
    dense, remarks = comparison.baseline, [each for each in (noise(comparison), *comparison.note.splitlines()) if each]
    own = comparison.speedup(dense)
    if own and own >= DIPPED:
        remarks.append(
            f"The loss of {dense.name} itself first passed its final value {words.factor(own)} times sooner than its "
            "last evaluation, and then rose again: compare every speed-up with that number."
        )
    for run in comparison.runs:
        if bad := next((point for point in run.points if not math.isfinite(point.loss)), None):
            remarks.append(
                f"{run.name}: the loss was not finite, first at step {bad.step:,} ({words.number(bad.seconds)} s)."
            )
        if len(run.points) <= 2:
            count = "one evaluation" if len(run.points) == 1 else "two evaluations"
            remarks.append(f"{run.name}: only {count}, so its curve and its time to the dashed line are coarse.")
    never = [run.name for run in comparison.runs if not comparison.crossing(run)]
    if never and math.isfinite(dense.points[-1].loss):
        remarks.append(f"Runs that never reached {dense.name}'s final loss within the budget: {', '.join(never)}.")
    if not any(run.link_bytes for run in comparison.runs):
        remarks.append("This link has no counter of its own in the kernel: megabytes sent are the ledger's.")
    return remarks


def reading(comparison: Comparison) -> list[str]:
    """How to read the page."""
    dense, (_, high, cut) = comparison.baseline.name, view.loss_limits(comparison)
    outside = f" Losses above {high:.2f} are outside the frame." if cut else ""
    return [
        f"Every run trained for the same {words.number(comparison.budget_seconds)} s; evaluations are not counted. "
        f"Held-out loss is in nats per byte, lower is better.{outside}",
        f"The dashed line is {dense}'s final loss. A ring marks where a run first touches it, on straight lines "
        "between evaluations; a later rise does not undo it. "
        f"Speed-up is {dense}'s total time divided by the time of the ring.",
        "1 MB is 1,000,000 bytes, sent by one rank. The ledger counts the payload; link is tx_bytes, the kernel's "
        "counter of the interface, with headers, acknowledgements and repeats.",
        f"(Link less headers) / ledger should be within 5 % of 1; headers are {HEADER_BYTES} bytes for each packet as "
        "the kernel counts it, up to 64 KB that are cut into frames only later. A run that sends a few hundred bytes a "
        "step is above it, because gloo's own messages show.",
        "The parts of a step are medians, each by itself: their sum can differ a little from the median of the whole. "
        "Of a run that takes local steps, a step is the average over a round, whose exchange all its steps share.",
    ]
