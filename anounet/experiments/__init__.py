"""The article's experiments: every method on the same test images, and whether what it changes is real.

An experiment is a preset's or a bundle's; `run` is a stream of Stages that ends in an `Outcome`, its numbers
(a `Report`) and the pictures of its figure. The command line and the app's jobs consume the same one.
"""

from anounet.experiments.choice import (
    MIN_IMAGES,
    PLAIN,
    REPORTED,
    VARIANTS,
    Experiment,
    ExperimentSettings,
    experiment,
)
from anounet.experiments.figure import FigureRow, draw_figure
from anounet.experiments.findings import findings, judged_rows, listed, method_rows, what_was_found
from anounet.experiments.judge import make_classifier
from anounet.experiments.measure import Outcome, run
from anounet.experiments.methods import TITLES
from anounet.experiments.report import FILE, PICTURE, Report, outdated, save_report, saved_report

__all__ = [
    "FILE",
    "MIN_IMAGES",
    "PICTURE",
    "PLAIN",
    "REPORTED",
    "TITLES",
    "VARIANTS",
    "Experiment",
    "ExperimentSettings",
    "FigureRow",
    "Outcome",
    "Report",
    "draw_figure",
    "experiment",
    "findings",
    "judged_rows",
    "listed",
    "make_classifier",
    "method_rows",
    "outdated",
    "run",
    "save_report",
    "saved_report",
    "what_was_found",
]
