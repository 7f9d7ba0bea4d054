"""The app's job queue and result cache, without a browser and without Streamlit."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from anounet.app.jobs import (
    CANCELLED,
    DONE,
    FAILED,
    MAX_POINTS,
    QUEUED,
    RUNNING,
    Job,
    JobCancelled,
    JobManager,
    Progress,
    closing_stream,
    job_id,
)
from anounet.app.results import ResultCache, result_key, size_of
from anounet.visualization import Result

PATIENCE = 10.0


class Gate:
    """Work that says when it began and goes on when it is let."""

    def __init__(self) -> None:
        self.begun, self.open = threading.Event(), threading.Event()

    def __call__(self, job: Job) -> str:
        self.begun.set()
        while not self.open.wait(0.01):
            job.check()
        return "through"


@pytest.fixture
def manager():
    manager = JobManager(keep=3)
    yield manager
    manager.shutdown()


def finished(job: Job) -> Job:
    assert job.wait(PATIENCE), f"{job.label} is still {job.state}"
    return job


def test_a_bundle_that_a_job_needs_is_left_alone(manager: JobManager) -> None:
    gate, changed = Gate(), []
    manager.submit("1", "k", "first", gate, bundles=("a",))
    waiting = manager.submit("2", "k", "second", lambda job: None, bundles=("b", "c"))
    assert gate.begun.wait(PATIENCE)
    assert [manager.unless_used(name, lambda: changed.append(True)) for name in "abcd"] == [False] * 3 + [
        True
    ]
    waiting.cancel()
    assert manager.unless_used("b", lambda: changed.append(True))
    gate.open.set()
    finished(manager.submit("3", "k", "third", lambda job: None))
    assert manager.unless_used("a", lambda: changed.append(True)) and len(changed) == 3


def test_jobs_run_one_after_the_other_in_their_order(manager: JobManager) -> None:
    order: list[str] = []
    gate = Gate()
    first = manager.submit("1", "k", "first", gate)
    others = [manager.submit(name, "k", name, lambda job: order.append(job.label)) for name in "234"]
    assert gate.begun.wait(PATIENCE)
    assert (first.state, others[0].state) == (RUNNING, QUEUED)
    assert [job.label for job in manager.ahead_of(others[1])] == ["first", "2"]
    assert manager.ahead_of(first) == []
    gate.open.set()
    finished(others[-1])
    assert order == ["2", "3", "4"]
    assert first.result == "through"


def test_the_same_input_twice_is_one_job_until_it_ends(manager: JobManager) -> None:
    gate, runs = Gate(), []

    def work(job: Job) -> None:
        runs.append(1)
        gate(job)

    first = manager.submit("same", "k", "a", work)
    assert manager.submit("same", "k", "a", work) is first
    assert manager.get(first.id) is first
    assert first.id == job_id("same")
    gate.open.set()
    finished(first)
    assert len(runs) == 1
    again = manager.submit("same", "k", "a", work)
    assert again is not first
    finished(again)
    assert len(runs) == 2


def test_a_running_job_stops_at_its_next_step(manager: JobManager) -> None:
    gate = Gate()
    job = manager.submit("x", "k", "x", gate)
    assert gate.begun.wait(PATIENCE)
    job.cancel()
    assert finished(job).state == CANCELLED
    assert job.result is None
    assert job.error is None


def test_a_queued_job_that_is_stopped_never_runs(manager: JobManager) -> None:
    gate, ran = Gate(), threading.Event()
    manager.submit("x", "k", "x", gate)
    waiting = manager.submit("y", "k", "y", lambda job: ran.set())
    waiting.cancel()
    last = manager.submit("z", "k", "z", lambda job: None)
    gate.open.set()
    finished(last)
    assert waiting.state == CANCELLED
    assert not ran.is_set()


def test_what_a_stopped_job_hands_back_is_kept(manager: JobManager) -> None:
    begun = threading.Event()

    def work(job: Job) -> str:
        begun.set()
        while not job.cancelled:
            time.sleep(0.01)
        return "the last checkpoint"

    job = manager.submit("x", "k", "x", work)
    assert begun.wait(PATIENCE)
    job.cancel()
    assert finished(job).state == CANCELLED
    assert job.result == "the last checkpoint"


def test_a_failure_is_kept_and_the_queue_goes_on(manager: JobManager) -> None:
    def fail(job: Job) -> None:
        raise ValueError("a sentence for the visitor")

    failed = finished(manager.submit("x", "k", "x", fail))
    assert failed.state == FAILED
    assert str(failed.error) == "a sentence for the visitor"
    assert failed.error.__traceback__ is None  # frames would keep tensors alive
    assert finished(manager.submit("y", "k", "y", lambda job: 7)).result == 7


def test_work_that_a_stopping_server_breaks_off_is_no_failure(
    manager: JobManager, caplog: pytest.LogCaptureFixture
) -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    job = manager.submit("a", "page", "A", lambda job: pool.submit(print))
    assert job.wait(PATIENCE) and (job.state, job.error) == (CANCELLED, None)
    assert not caplog.records


def test_only_the_last_ended_jobs_are_remembered(manager: JobManager) -> None:
    jobs = [manager.submit(str(n), "k", str(n), lambda job: None) for n in range(8)]
    finished(jobs[-1])
    finished(manager.submit("end", "k", "end", lambda job: None))
    deadline = time.monotonic() + PATIENCE
    while sum(manager.get(job.id) is not None for job in jobs) > 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert manager.get(jobs[0].id) is None
    assert sum(manager.get(job.id) is not None for job in jobs) <= 3


def test_a_job_is_stopped_when_its_last_owner_moves_on(manager: JobManager) -> None:
    gate = Gate()
    job = manager.submit("x", "k", "x", gate, owner="anna")
    manager.submit("x", "k", "x", gate, owner="bert")
    manager.release(job, "anna")
    assert not job.cancelled
    manager.release(job, "bert")
    assert finished(job).state == CANCELLED


def test_progress_counts_estimates_and_stays_small(manager: JobManager) -> None:
    def work(job: Job) -> None:
        job.stage("counting", 5000)
        for n in range(1, 5001):
            job.advance(n, values={"loss": 1 / n})
        job.milestone()

    job = finished(manager.submit("x", "k", "x", work))
    progress = job.progress
    assert job.state == DONE
    assert (progress.done, progress.total, progress.share, progress.milestones) == (5000, 5000, 1.0, 1)
    curve = progress.curves["loss"]
    assert len(curve) == MAX_POINTS
    assert (curve[0], curve[-1]) == (1.0, 1 / 5000)


def test_time_left_follows_the_pace_so_far() -> None:
    assert Progress(done=25, total=100, started=100.0).remaining(110.0) == pytest.approx(30.0)
    assert Progress(done=0, total=100, started=100.0).remaining(110.0) is None
    # A training that goes on at step 50 has its own pace, not that of the steps before.
    assert Progress(done=60, total=100, first=50, started=100.0).remaining(110.0) == pytest.approx(40.0)
    assert Progress(done=50, total=100, first=50, started=100.0).remaining(110.0) is None
    assert Progress().remaining() is None
    assert Progress().share == 0.0


def test_work_that_was_done_at_once_is_remembered_but_never_runs(manager: JobManager) -> None:
    noted = manager.note("now", "k", "at once", spec="what it was for")
    assert noted.state == DONE
    assert manager.get(noted.id).spec == "what it was for"
    assert manager.note("now", "k", "at once") is noted
    finished(manager.submit("later", "k", "later", lambda job: None))
    assert manager.ahead_of(noted) == []


def test_waiting_ends_at_a_milestone(manager: JobManager) -> None:
    gate = Gate()

    def work(job: Job) -> None:
        job.milestone()
        gate(job)

    job = manager.submit("x", "k", "x", work)
    assert job.wait(PATIENCE, milestones=1)
    assert job.active
    assert not job.wait(0.05)
    gate.open.set()
    finished(job)


def test_a_stream_is_closed_however_it_is_left() -> None:
    closed = []

    def stream():
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    with pytest.raises(JobCancelled), closing_stream(stream()) as steps:
        for _ in steps:
            raise JobCancelled
    assert closed == [True]


# --- results -----------------------------------------------------------------------------------------


def a_result(score: float = 1.0, size: int = 32) -> Result:
    x = torch.zeros(3, size, size)
    return Result(
        method="fast",
        score=score,
        threshold=0.5,
        x=x,
        y=x.clone(),
        anomaly_map=torch.zeros(size, size),
        smoothing=0.0,
        scale=0.1,
        losses={},
        seconds=0.0,
    )


def test_two_sessions_compute_a_miss_once() -> None:
    cache, made, barrier = ResultCache(), [], threading.Barrier(4)

    def make() -> Result:
        made.append(1)
        time.sleep(0.05)
        return a_result()

    def ask() -> None:
        barrier.wait()
        cache.compute("key", make)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert not cache._computing


def test_a_failed_computation_leaves_the_key_free() -> None:
    cache = ResultCache()

    def fail() -> Result:
        raise ArithmeticError("diverged")

    with pytest.raises(ArithmeticError):
        cache.compute("key", fail)
    assert cache.compute("key", a_result).score == 1.0
    assert not cache._computing


def test_the_cache_is_bounded_in_bytes_and_drops_the_least_used() -> None:
    one = size_of(a_result())
    cache = ResultCache(max_bytes=3 * one)
    for key in "abc":
        cache.put(key, a_result())
    cache.get("a")
    cache.put("d", a_result())
    assert len(cache) == 3
    assert cache.get("b") is None
    assert cache.get("a") is not None


def test_all_maps_of_a_result_count_each_tensor_once() -> None:
    result = a_result()
    shown = {"residual": result.anomaly_map, "distance": torch.zeros(32, 32)}
    assert size_of(replace(result, maps=shown)) - size_of(result) == 32 * 32 * 4


def test_a_key_depends_on_everything_that_changes_a_result() -> None:
    keys = {
        result_key("image", "weights", "fast", "settings"),
        result_key("other", "weights", "fast", "settings"),
        result_key("image", "other", "fast", "settings"),
        result_key("image", "weights", "anogan", "settings"),
        result_key("image", "weights", "fast", "other"),
    }
    assert len(keys) == 5
