"""A quick third of the campaign, and its table."""

from __future__ import annotations

import pytest
from campaign import CASES, DEATHS, PAGE, every_cell, quick_cells, recorded, reds, run, table


@pytest.mark.story
@pytest.mark.campaign
def test_a_third_of_the_campaign_keeps_every_promise() -> None:
    """This runs all doors with two methods; `make faults` runs all methods."""
    cells = quick_cells()
    found = {cell: red for part in run(cells, seconds=200) for cell, red in part.items()}
    assert {cell: found.get(cell, "not run") for cell in cells} == dict.fromkeys(cells)


def test_quick_cells_are_of_every_kind() -> None:
    cells = quick_cells()
    assert set(cells) <= set(every_cell())
    assert {cell.door for cell in cells} == {cell.door for cell in every_cell()}
    assert 3 * len({cell.case for cell in cells}) >= len(CASES) + len(DEATHS)


def test_the_page_shows_the_recorded_table() -> None:
    page, found = PAGE.read_text(), recorded()
    for name, text in {"campaign": table(found), "reds": reds(found)}.items():
        assert f"<!-- {name} -->\n{text}<!-- /{name} -->" in page
