"""`experiment`: one of the article's experiments, measured and drawn anew by one command."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from anounet.bundle import Bundle, load_bundle
from anounet.cli.common import Progress, add_device, add_settings, command_of, device_of, settings_from, table
from anounet.datasets import TextureSet
from anounet.experiments import (
    PLAIN,
    REPORTED,
    VARIANTS,
    Experiment,
    ExperimentSettings,
    Outcome,
    draw_figure,
    experiment,
    findings,
    judged_rows,
    method_rows,
    run,
    save_report,
)
from anounet.images import png_bytes
from anounet.prepare import Stage
from anounet.presets import PRESETS
from anounet.storage import write_atomic, write_json
from anounet.visualization import drain


def add_commands(commands: Any) -> None:
    text = "one of the article's experiments: every method on the same images, and whether a change is real"
    parser = commands.add_parser("experiment", help=text, description=text)
    parser.add_argument(
        "name", metavar="NAME", help=f"{', '.join(PRESETS)} (or dagm), or a bundle, which says what it is of"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for result.json, the text and the figures"
    )
    add_settings(
        parser,
        ExperimentSettings,
        {
            "images": "test images of each kind, normal and anomalous, at most",
            "fast_images": "of these in fast mode and with refining, a second each on a CPU; 0: without them",
            "article_images": "of these in article mode, most of a minute each on a CPU; 0: without it",
            "anogan_images": "of these for AnoGAN, seconds each on a CPU; 0: without it",
            "refine": "refining steps after instant mode",
            "seed": "seed of the choice of images",
            "split": "test, or validation to choose settings by",
        },
    )
    parser.add_argument(
        "--variant",
        choices=(PLAIN, *VARIANTS),
        default=None,
        help="one of the bundles NAME and NAME-robust alone (default: both, where they are there)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to FILE too")
    parser.add_argument(
        "--save",
        action="store_true",
        help="keep the numbers beside the bundle, for the page Experiments; of the embedded textures the "
        "figure too",
    )
    add_device(parser)
    parser.set_defaults(run=run_experiment)


def run_experiment(given: argparse.Namespace) -> int:
    """Runs an experiment with each of its bundles; what is done is written before the next one begins."""
    chosen, settings = experiment(given.name), settings_from(given, ExperimentSettings)
    if given.save and settings.split != REPORTED:
        raise ValueError(
            f"--save keeps what is reported, which comes from the test split: leave out --save or --split "
            f"{settings.split}."
        )
    names, device = chosen.bundles(given.variant), device_of(given)
    reports: list[dict[str, Any]] = []
    for name in names:
        bundle = chosen.judged(load_bundle(name, device))
        outcome = _follow(chosen, bundle, settings, command_of(given))
        reports.append(outcome.report.to_json() | {"text": findings(outcome.report)})
        _write(given, outcome, reports, name.removeprefix(chosen.name))
        print(_text(outcome), flush=True)
    return 0


def _follow(chosen: Experiment, bundle: Bundle, settings: ExperimentSettings, command: str) -> Outcome:
    progress = Progress()

    def show(stage: Stage) -> None:
        progress.update(f"{bundle.name}: {stage.name}", stage.done, stage.total, **stage.metrics)

    try:
        return drain(run(chosen, bundle, settings, command=command), show)
    finally:
        progress.close()


def _write(given: argparse.Namespace, outcome: Outcome, reports: list[dict[str, Any]], suffix: str) -> None:
    """All that was asked for of one bundle; the numbers of those before it stay in the same files."""
    report, picture = outcome.report, png_bytes(draw_figure(outcome.figure))
    value = {"experiment": report.experiment, "runs": reports}
    if given.out is not None:
        write_atomic(given.out / f"figure{suffix}.png", picture)
        write_atomic(given.out / f"result{suffix}.md", f"{_text(outcome)}\n".encode())
        write_json(given.out / "result.json", value)
    if given.json is not None:
        write_json(given.json, value)
    if given.save:
        save_report(report, picture if report.data == TextureSet.name else None)


def _text(outcome: Outcome) -> str:
    report, settings = outcome.report, outcome.report.settings
    head = (
        f"{report.title}\n{report.bundle}, {report.made[:10]}, {report.data}, {settings['split']} split, "
        f"{report.size} px, seed {settings['seed']}, {report.device}, torch {report.versions['torch']}"
    )
    parts = [head, table(method_rows(report))]
    if judged := judged_rows(report):
        parts.append(f"What was changed, and whether it is real:\n\n{table(judged)}")
    return "\n\n".join([*parts, findings(report), *report.notes])
