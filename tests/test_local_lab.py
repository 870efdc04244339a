"""Local steps in the laboratory: rounds, schedules, batches of workers, the runs they make, and what is refused."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from torch import nn

import gradwire as gw
from gradwire import cli
from gradwire.lab import corpus
from gradwire.lab.averager import InProcess
from gradwire.lab.training import History, LocalSteps, Step, Training, optimizers, train
from gradwire.lab.training.crowd import Crowd
from gradwire.lab.training.loop import follow
from gradwire.lab.training.rounds import OuterRounds, Timetable, catch_up_
from gradwire.lab.training.tasks import make
from gradwire.lab.training.tasks.protocol import Settings, own_part
from gradwire.layout import Layout

SPARSE, AVERAGE, SENDERS = "ef(topk(density=0.05))", "sgd(lr=1.0)", "sgd(lr=1.0, mean='senders')"
SGD = Training(
    "language", workers=3, steps=5, batch=2, model="gpt", learning_rate=0.1, momentum=0.0, clip=0.0, decay=()
)
ADAMW = Training("language", SPARSE, 2, steps=7, batch=2, model="gpt", optimizer="adamw", local=LocalSteps(3, SENDERS))
LAYOUT = Layout(["a", "b", "c"], [(40,), (8, 5), (20,)])


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def losses(history: History) -> list[float]:
    return [step.loss for step in history.steps]


def spread(n: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return an anchor f[d] and n workers f[n, d] around it."""
    rng = torch.Generator().manual_seed(seed)
    anchor = torch.randn(LAYOUT.d, generator=rng)
    return anchor, anchor + 0.1 * torch.randn(n, LAYOUT.d, generator=rng)


# ---- laws of a round


def test_a_round_of_plain_means_averages_the_parameters() -> None:
    anchor, thetas = spread()
    OuterRounds("mean", AVERAGE, LAYOUT, 4).play(anchor, thetas)
    assert torch.allclose(anchor, thetas.mean(0), atol=1e-6)  # float32: anchor - mean(anchor - theta)


def test_error_feedback_conserves_what_the_workers_have_walked() -> None:
    """The sum of all differences is n times the sum of the means plus the residuals."""
    rounds, walked, moved = OuterRounds(SPARSE, AVERAGE, LAYOUT, 4), torch.zeros(LAYOUT.d), torch.zeros(LAYOUT.d)
    anchor, _ = spread()
    for seed in range(5):
        thetas = anchor + spread(seed=seed)[1]
        before = anchor.clone()
        walked += (anchor - thetas).sum(0)
        rounds.play(anchor, thetas)
        moved += before - anchor
    residuals = sum(state["error"] for state in rounds.averager.states)
    assert torch.allclose(walked, 4 * moved + residuals, atol=1e-4)  # float32, five rounds
    assert residuals.norm() > 1


@pytest.mark.parametrize("outer", [SENDERS, "nesterov(lr=0.7, momentum=0.9)"])
def test_a_batched_round_is_the_one_in_lockstep(outer: str) -> None:
    ends: list[torch.Tensor] = []
    for batched in (False, True):
        rounds = OuterRounds(SPARSE, outer, LAYOUT, 4, batched=batched)
        anchor, _ = spread()
        for seed in range(3):
            rounds.play(anchor, anchor + spread(seed=seed)[1])
        ends.append(anchor)
    assert torch.allclose(*ends, atol=1e-6)  # sums in another order


def test_what_is_not_finite_moves_nothing() -> None:
    anchor, thetas = spread()
    thetas[2, 7] = float("nan")
    before, rounds = anchor.clone(), OuterRounds(f"guard({SPARSE})", AVERAGE, LAYOUT, 4)
    assert not rounds.play(anchor, thetas).finite
    assert torch.equal(anchor, before)
    assert not rounds.averager.states[0]["error"].any()


# ---- timetables


def table(local: LocalSteps, steps: int = 100) -> tuple[Timetable, torch.Tensor]:
    anchor, thetas = spread()
    return Timetable(local, gw.parse("mean"), LAYOUT, 4, steps, 0, anchor), thetas


def test_fragments_take_turns_and_the_last_step_ends_every_round() -> None:
    timetable, thetas = table(LocalSteps(4, AVERAGE, fragments=2), steps=9)
    sizes = [[sent.own.dense().shape[-1] for sent in timetable.after(step, thetas)] for step in range(1, 10)]
    first, second = (fragment.last - fragment.first for fragment in timetable.fragments)
    assert (first, second) == (40, 60)
    assert sizes == [[], [first], [], [second], [], [first], [], [second], [first, second]]
    assert torch.equal(thetas, timetable.anchor.expand_as(thetas))


def test_rounds_grow() -> None:
    timetable, thetas = table(LocalSteps(5, AVERAGE, grow=8))
    exchanged = [step for step in range(1, 20) if list(timetable.after(step, thetas))]
    assert exchanged == [1, 2, 4, 7, 11, 16]


@pytest.mark.parametrize(
    ("how", "wanted"),
    [("add", [[2.0, 4.0], [2.0, 4.0]]), ("mix", [[1.5, 3.0], [1.5, 3.0]]), ("drop", [[1.0, 3.0], [1.0, 3.0]])],
)
def test_a_worker_catches_up(how, wanted) -> None:
    """Its difference was taken at 1, 2; it went on to 2, 3; the anchor is now at 1, 3."""
    thetas = torch.tensor([[2.0, 3.0], [2.0, 3.0]])
    catch_up_(thetas, torch.tensor([1.0, 3.0]), torch.tensor([[1.0, 2.0], [1.0, 2.0]]), how)
    assert thetas.tolist() == wanted


def test_a_delayed_mean_of_a_single_worker_that_adds_changes_nothing() -> None:
    """Its difference comes back unchanged, no step is lost, and at the end the anchor is where the worker is."""
    rng = torch.Generator().manual_seed(0)
    anchor = torch.zeros(LAYOUT.d)
    timetable = Timetable(LocalSteps(3, AVERAGE, delay=2, catch_up="add"), gw.parse("mean"), LAYOUT, 1, 8, 0, anchor)
    thetas, alone = anchor.repeat(1, 1), anchor.clone()
    for step in range(1, 9):
        move = torch.randn(LAYOUT.d, generator=rng)
        thetas += move
        alone += move
        sent = list(timetable.after(step, thetas))
        assert len(sent) == (step in (3, 6, 8))
        assert torch.allclose(thetas[0], alone, atol=1e-5)  # float32, sums of a dozen numbers
    assert torch.allclose(timetable.anchor, alone, atol=1e-5)


# ---- crowds


def test_running_statistics_are_averaged_and_counts_are_not() -> None:
    crowd = Crowd(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), 2)
    for worker in (0, 1, 1):
        crowd.load_worker(worker)
        crowd.model(torch.randn(8, 3) + worker)
    apart = [[buffer.clone() for buffer in buffers] for buffers in crowd.buffers]
    assert [int(buffers[2]) for buffers in apart] == [1, 2]
    crowd.average_buffers()
    for buffers in crowd.buffers:
        assert torch.allclose(buffers[0], (apart[0][0] + apart[1][0]) / 2)
        assert int(buffers[2]) == 1


def test_workers_keep_to_their_own_parameters() -> None:
    crowd = Crowd(nn.Linear(3, 2), 2)
    crowd.thetas[1] += 1
    x, answers = torch.ones(1, 3), []
    for worker in (0, 1, 0):
        crowd.load_worker(worker)
        answers.append(crowd.model(x))
    assert torch.allclose(answers[1], answers[0] + 4)  # three weights and a bias, each one more
    assert torch.equal(answers[0], answers[2])
    crowd.load_anchor(crowd.thetas[1])
    assert torch.equal(crowd.model(x), answers[1])


# ---- runs


def test_one_local_step_of_sgd_is_data_parallel_sgd() -> None:
    dense, local = train(SGD), train(replace(SGD, local=LocalSteps(1, AVERAGE)))
    assert losses(local) == pytest.approx(losses(dense), abs=1e-5)  # float32, means in another order
    assert [step.bytes for step in local.steps] == [step.bytes for step in dense.steps]
    assert local.final["loss"] == pytest.approx(dense.final["loss"], abs=1e-5)


def test_a_round_of_means_is_models_trained_apart_and_averaged() -> None:
    """Two workers' models are trained by AdamW in explicit loops."""
    training = replace(ADAMW, exchange="dense", steps=3, local=LocalSteps(3, AVERAGE), clip=0.0, learning_rate=1e-3)
    settings, task = training.filled().settings, training.make()
    models = [task.model("gpt", 0) for _ in range(2)]
    for worker, model in enumerate(models):
        params = list(model.parameters())
        optimizer = optimizers.make(settings, params)
        for step in range(3):
            for group in optimizer.param_groups:
                group["lr"] = optimizers.rate(settings, step)
            for param, gradient in zip(
                params, torch.autograd.grad(task.loss(model, worker, 2, step, 2, 0), params), strict=True
            ):
                param.grad = gradient
            optimizer.step()
    with torch.no_grad():
        for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
            ours.add_(theirs).div_(2)
    assert train(training).final["loss"] == pytest.approx(task.evaluate(models[0])["loss"], abs=1e-5)


@pytest.mark.parametrize(
    "local",
    [
        LocalSteps(3, SENDERS, delay=2),
        LocalSteps(3, AVERAGE, fragments=3),
        LocalSteps(2, SENDERS, delay=1, catch_up="add"),
    ],
)
def test_the_same_seed_gives_the_same_local_run(local: LocalSteps) -> None:
    one, two = (train(replace(ADAMW, local=local)) for _ in range(2))
    assert losses(one) == losses(two)
    assert one.final == two.final


def test_what_a_local_step_reports() -> None:
    history = train(ADAMW)
    assert [bool(step.bytes) for step in history.steps] == [False, False, True, False, False, True, True]
    assert [bool(step.density) for step in history.steps] == [bool(step.bytes) for step in history.steps]
    assert [step.residual is None for step in history.steps] == [True, True] + [False] * 5
    message = history.steps[2].bytes
    assert 0.05 * 4 * history.parameters < message < 0.07 * 4 * history.parameters


def test_adamw_has_settings_of_its_own() -> None:
    filled = replace(ADAMW, exchange="dense").filled()
    assert (filled.schedule, filled.clip, filled.decay, filled.momentum) == ("cosine", 1.0, (), 0.0)
    assert filled.learning_rate == make("language").adamw("gpt").lr
    assert Training("language").filled().learning_rate == make("language").defaults.lr
    assert Training("language", schedule="cosine").filled().decay == ()


def test_the_learning_rate_rises_and_falls_along_a_cosine() -> None:
    settings = Settings("m", 1, lr=1.0, steps=10, evaluate_every=1, schedule="cosine", warmup_steps=2)
    rates = [optimizers.rate(settings, step) for step in range(11)]
    assert rates[0] == 0.5
    assert rates[5] == pytest.approx(0.55)
    assert rates[10] == pytest.approx(0.1)
    assert rates[1:] == sorted(rates[1:], reverse=True)


def test_weights_decay_only_in_matrices() -> None:
    params = [torch.ones(2, 2, requires_grad=True), torch.ones(2, requires_grad=True)]
    for param in params:
        param.grad = torch.zeros_like(param)
    optimizers.make(make("language").adamw(None), params).step()
    assert params[0].max() < 1
    assert params[1].tolist() == [1.0, 1.0]


def test_muon_is_refused_where_torch_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(ValueError, match=r"has no Muon: choose adamw"):
        optimizers.make(replace(make("language").adamw(None), optimizer="muon"), [torch.ones(2, 2, requires_grad=True)])


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_by_adamw_or_muon_resumes_bit_equal(optimizer: str, tmp_path: Path) -> None:
    """Every step is compressed. The second half, run alone, equals that of the whole run."""
    training = replace(ADAMW, local=None, steps=4, evaluate_every=2, optimizer=optimizer)
    whole = train(training)

    def cut(event: object) -> None:
        if isinstance(event, Step) and event.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(training, cut, save=tmp_path / "here")
    assert losses(train(training, resume=tmp_path / "here")) == losses(whole)[2:]


# ---- unlike data


def test_every_worker_reads_its_own_kind_of_text() -> None:
    """There are four kinds, whose most frequent bytes differ; a fifth worker reads the first kind again."""
    texts = corpus.kinds()
    assert len(texts) == 4
    task = make("language", unlike=True)
    model = task.model("gpt", 0)
    told = [task.loss(model, worker, 5, 0, 16, 0).item() for worker in range(5)]
    assert len(set(told)) == 5
    assert "English" in task.source
    assert task.evaluate(model) != make("language").evaluate(model)
    with pytest.raises(ValueError, match="unlike texts are the installed ones"):
        make("language", "some.txt", unlike=True)


def test_samples_are_dealt_by_their_keys() -> None:
    keys = torch.tensor([3, 0, 1, 2, 0, 3, 1, 2])
    dealt = [own_part(keys, worker, 4, step, 2, 0).tolist() for worker in range(4) for step in (0, 1)]
    for worker, label in enumerate((0, 1, 2, 3)):
        for samples in dealt[2 * worker : 2 * worker + 2]:
            assert sorted(samples) == [place for place, key in enumerate(keys.tolist()) if key == label]


# ---- refusals and records


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"every": 0}, "every must be a whole number of at least 1, got 0"),
        ({"outer": "sgd(lr=0)"}, "lr must be above 0, got 0"),
        ({"outer": "mean"}, "is no outer step"),
        ({"delay": 10}, "a delay lies within a round of 10 steps, got 10"),
        ({"delay": -1}, "a delay lies within a round of 10 steps, got -1"),
        ({"catch_up": "mx"}, "unknown catch-up 'mx'; did you mean 'mix'?"),
        ({"fragments": 11}, "11 fragments do not fit into a round of 10 steps"),
    ],
)
def test_local_steps_that_cannot_be_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        LocalSteps(**({"every": 10} | change))
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "adamm"}, "unknown optimizer 'adamm'; did you mean"),
        ({"schedule": "linear"}, "unknown schedule 'linear'; known are constant, cosine"),
        ({"warmup_steps": -1}, "warmup_steps must be a whole number of at least 0, got -1"),
        ({"optimizer": "adam", "learning_rate": None}, "language has no learning rate of its own for adam; give one"),
        ({"optimizer": "adamw", "momentum": 0.9}, "momentum is SGD's, and adamw was given 0.9"),
    ],
)
def test_optimizers_that_cannot_be_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        replace(SGD, **change)
    assert message in str(refused.value)


def test_what_local_steps_cannot_do_here_is_said(tmp_path: Path) -> None:
    for arguments in ({"save": tmp_path / "here"}, {"resume": tmp_path / "here"}):
        with pytest.raises(ValueError, match="keeps no checkpoints in the laboratory; leave out"):
            train(ADAMW, **arguments)

    class Elsewhere(InProcess):
        """Stands for real ranks."""

    with pytest.raises(ValueError, match="run in one process: give workers instead of ranks"):
        follow(ADAMW, Elsewhere, lambda event: None, None, None)
    with pytest.raises(ValueError, match=r"a model of 28 tensors does not fall into 25 fragments"):
        train(replace(ADAMW, local=LocalSteps(30, fragments=25)))


def test_a_diverging_local_run_says_so() -> None:
    run = replace(SGD, learning_rate=1e38, local=LocalSteps(2, AVERAGE))
    with pytest.raises(ArithmeticError, match=r"a model of step 2 is not finite; try a smaller learning rate"):
        train(run)


def test_settings_are_read_back_and_older_ones_too() -> None:
    saved = asdict(ADAMW.filled())
    assert Training.from_dict(saved) == ADAMW.filled()
    for name in ("optimizer", "schedule", "warmup_steps", "local", "unlike"):
        del saved[name]
    assert Training.from_dict(saved).local is None


def command(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["gradwire", "lab", "train", "--task", "language", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return 0 if ended.value.code is None else int(ended.value.code)


def test_local_steps_from_the_command_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    short = ("--model", "gpt", "--workers", "2", "--steps", "2", "--batch", "2", "--optimizer", "adamw")
    local = ("--local", "2", "--exchange", SPARSE, "--outer", SENDERS, "--delay", "1", "--catch-up", "add")
    assert command(*short, *local, "--fragments", "2", "--unlike", monkeypatch=monkeypatch) == 0
    assert "residual" in capfd.readouterr().out
    assert command(*short, "--delay", "1", monkeypatch=monkeypatch) == 2
    assert "--delay 1 belongs to local steps; say how many with --local" in capfd.readouterr().err


# ---- what the page says


def test_the_page_shows_the_long_runs() -> None:
    """Its table is that of the runs, whose losses are near dense and whose bytes are as many times fewer as it says."""
    root = Path(__file__).parents[1]
    runs: dict[str, list[dict[str, Any]]] = {}
    for run in json.loads((root / "benchmarks" / "results" / "local_lab.json").read_text())["runs"]:
        runs.setdefault(run["label"], []).append(run)
    page = (root / "docs" / "local-lab.md").read_text()
    for label, found in runs.items():
        losses = [run["loss"] for run in found]
        row = f"| {len(found)} | {mean(losses):.3f} [{min(losses):.3f}-{max(losses):.3f}] |"
        assert label.startswith("sweep") or (f"| {label} | " in page and row in page), label
    dense = {run["training"]["seed"]: run for run in runs["dense"]}
    for label, over, fewer in (("default, H = 4", 0.05, 800), ("default, H = 10", 0.1, 2000)):
        pairs = [(run, dense[run["training"]["seed"]]) for run in runs[label]]
        assert mean(ours["loss"] - theirs["loss"] for ours, theirs in pairs) < over
        assert all(theirs["megabytes"] > fewer * ours["megabytes"] for ours, theirs in pairs)
    decay, none, unlike, dense_unlike = (
        runs[label][0]["loss"]
        for label in ("default, H = 10", "no decay, H = 10", "unlike: default, H = 10", "unlike: dense")
    )
    assert decay < none
    assert unlike - dense_unlike < 0.1
