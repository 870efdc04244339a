"""The report: a comparison as one self-contained HTML page.

All sentences are computed from the record; the headline states the finding, even if it is that nothing was gained. The
figures are inline SVG, each drawn wide and narrow (the style sheet shows one), and take every colour from CSS
variables, so one page serves light and dark screens and paper. The same record gives the same page, byte for byte.
"""

from gradwire.report.page import render, write

__all__ = ["render", "write"]
