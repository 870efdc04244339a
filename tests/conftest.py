"""Every test runs with one thread, so that sums are in one order and two workers share two cores."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def forget() -> Iterator[None]:
    """Remove what a test registers after it, and look for installed packages again."""
    from gradwire import registry

    known = dict(registry.PARTS)
    registry.load_installed.cache_clear()
    yield
    registry.PARTS.clear()
    registry.PARTS.update(known)
    registry.load_installed.cache_clear()


@pytest.fixture
def refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return what a command line prints when it ends with code 2 and writes nothing. Runs in this process: a start
    takes seconds.
    """
    from gradwire import cli

    def refuse(*arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["gradwire", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 2
        assert list(tmp_path.iterdir()) == []
        return " ".join(capsys.readouterr().err.split())  # the console breaks lines

    return refuse
