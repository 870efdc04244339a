"""The report: a comparison as one HTML page that needs nothing but itself.

What the page says is computed from the record: the headline states the finding, also when there is none. The figures
are inline SVG, each drawn twice (wide and narrow; the style sheet shows one), and take every colour from CSS variables:
one page serves light, dark and paper. The same record gives the same page, byte for byte.
"""

from gradwire.report.page import render, write

__all__ = ["render", "write"]
