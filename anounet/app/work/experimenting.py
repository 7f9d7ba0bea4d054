"""An experiment as a job: every method, or the images of the figure alone."""

from __future__ import annotations

from dataclasses import dataclass

from anounet.app.jobs import Job
from anounet.app.texts import label
from anounet.bundle import Bundle
from anounet.experiments import ExperimentSettings, Outcome, Report, experiment, run
from anounet.prepare import Stage
from anounet.visualization import drain

BY_PAGE = "app"  # what stands in a report for the command that made it


@dataclass(frozen=True)
class ExperimentRequest:
    """What a job is for."""

    name: str  # the experiment's
    bundle: str
    version: str  # of the bundle
    settings: ExperimentSettings

    @property
    def key(self) -> str:
        return f"experiment {self.name} {self.version} {self.settings!r}"


def run_experiment(job: Job, request: ExperimentRequest, bundle: Bundle) -> Outcome:
    """Runs an experiment; a stop keeps nothing of it."""
    chosen, now = experiment(request.name), ""

    def on_stage(stage: Stage) -> None:
        nonlocal now
        if stage.name != now:
            now = stage.name
            job.stage(label(now), stage.total)
        job.advance(stage.done)
        job.check()

    return drain(run(chosen, chosen.judged(bundle), request.settings, command=BY_PAGE), on_stage)


def estimated_seconds(report: Report, settings: ExperimentSettings) -> float:
    """A rough time for a run with other numbers of images, at the pace of one that is known."""
    most = {"article": settings.article_images, "anogan": settings.anogan_images}
    most |= dict.fromkeys(("fast", "fast-local", "refined"), settings.fast_images)
    return sum(
        2 * min(most.get(row.method, settings.images), settings.images) * row.seconds for row in report.rows
    )
