"""A link's rate: from text to bits per second."""

import re

SCALE = {"k": 1e3, "m": 1e6, "g": 1e9}
LOWEST, HIGHEST = 1_000, 100_000_000_000  # bits per second


def parse_rate(text: str) -> int:
    """Parse a rate such as `100mbit`, `2.5gbit` or `100Mbit/s` to bits per second; ValueError for any other text."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([kmg])bit(?:/s)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise ValueError(f"a rate is a number with kbit, mbit or gbit, such as 100mbit; got {text!r}")
    return within(float(found[1]) * SCALE[found[2].lower()], text)


def within(rate: float, given: str | int) -> int:
    """Round `rate` to whole bits per second; ValueError, quoting `given`, if it is not within 1 kbit to 100 gbit."""
    if not LOWEST <= rate <= HIGHEST:
        raise ValueError(f"a rate lies between 1kbit and 100gbit; got {given!r}")
    return round(rate)
