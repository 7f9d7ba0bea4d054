"""Many visitors at once: the queue of passes, and the app itself under a few of them."""

from __future__ import annotations

import ast
import asyncio
import gc
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tiny
import torch
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from test_app import PAGES, app, job_of, made, no_leftovers, noise, png, sound, weights, words  # noqa: F401

from anounet.app import batching, components, models, uploads
from anounet.app.batching import Batcher, Counts, Ticket
from anounet.app.jobs import CANCELLED, DONE, Job, JobManager
from anounet.app.results import ResultCache
from anounet.app.work import answers
from anounet.bundle import SHIPPED, Bundle, load_bundle
from anounet.cli import bench
from anounet.images import Decoded, content_hash
from anounet.visualization import Result

PATIENCE = 30.0
ROOT = Path(__file__).resolve().parent.parent


class Kept(dict[str, str]):
    """A store without a bound."""

    def put(self, key: str, result: str) -> None:
        self[key] = result


class Model:
    """Answers in capitals, once it is let; remembers what it was asked, pass by pass."""

    def __init__(self) -> None:
        self.passes: list[list[str]] = []
        self.begun, self.open = threading.Semaphore(0), threading.Event()
        self.threads: set[int] = set()

    def __call__(self, items: Sequence[str]) -> Iterator[str | Exception]:
        self.passes.append(list(items))
        self.threads.add(threading.get_ident())
        self.begun.release()
        assert self.open.wait(PATIENCE)
        for item in items:
            if item.startswith("NaN"):
                yield ArithmeticError(item)
            elif item.startswith("bomb"):
                raise ValueError(f"{item} of {len(items)}")
            else:
                yield item.upper()


@dataclass
class Desk:
    """A batcher with a model behind it."""

    batcher: Batcher[str, str]
    model: Model
    kept: Kept

    def ask(self, *items: str, group: str = "g") -> Ticket[str]:
        return self.batcher.ask(group, self.model, {item: item for item in items})

    def busy(self) -> Ticket[str]:
        """Asks for an image, and returns when it is being computed and the model waits to be let on."""
        ticket = self.ask("first")
        assert self.model.begun.acquire(timeout=PATIENCE)
        return ticket


@pytest.fixture
def desk() -> Iterator[Desk]:
    kept, model = Kept(), Model()
    yield Desk(Batcher(kept, most=3), model, kept)
    model.open.set()


def answered(*tickets: Ticket[str]) -> list[dict[str, str | Exception]]:
    assert all(ticket.wait(PATIENCE) for ticket in tickets)
    return [ticket.answers for ticket in tickets]


# --- the queue of passes -----------------------------------------------------------------------------


def test_an_idle_model_begins_at_once_and_what_comes_meanwhile_shares_the_next_pass(desk: Desk) -> None:
    tickets = [desk.busy(), *(desk.ask(name) for name in "abc")]
    assert desk.model.passes == [["first"]]
    desk.model.open.set()
    assert answered(*tickets) == [{"first": "FIRST"}, {"a": "A"}, {"b": "B"}, {"c": "C"}]
    assert desk.model.passes == [["first"], ["a", "b", "c"]]
    assert desk.batcher.counts == Counts(tickets=4, images=4, passes=2)
    assert len(desk.model.threads) == 1


def test_a_pass_has_a_bound_and_takes_images_in_order_of_arrival(desk: Desk) -> None:
    first, many, late = desk.busy(), desk.ask(*"abcd"), desk.ask("z")
    desk.model.open.set()
    answered(first, many, late)
    assert desk.model.passes == [["first"], ["a", "b", "c"], ["d", "z"]]


def test_the_longest_wait_decides_whose_bundle_is_next(desk: Desk) -> None:
    tickets = [desk.busy(), desk.ask("a"), desk.ask("x", group="other"), desk.ask("b"), desk.ask("y")]
    desk.model.open.set()
    answered(*tickets)
    assert desk.model.passes == [["first"], ["a", "b", "y"], ["x"]]


def test_others_of_a_busy_bundle_do_not_keep_a_rare_one_waiting(desk: Desk) -> None:
    tickets = [desk.busy(), desk.ask("x", group="other"), *(desk.ask(name) for name in "abcdef")]
    desk.model.open.set()
    answered(*tickets)
    assert desk.model.passes[1] == ["x"]


def test_the_same_image_is_computed_once_for_all_who_ask(desk: Desk) -> None:
    tickets = [desk.busy(), desk.ask("same"), desk.ask("same", "own"), desk.ask("first")]
    desk.model.open.set()
    answered(*tickets)
    assert desk.model.passes == [["first"], ["same", "own"]]
    assert answered(desk.ask("same")) == [{"same": "SAME"}]  # it is kept
    assert len(desk.model.passes) == 2


def test_threads_that_ask_at_the_same_moment_compute_each_image_once(desk: Desk) -> None:
    desk.model.open.set()
    barrier, found = threading.Barrier(12), []

    def visit(number: int) -> None:
        barrier.wait()
        for turn in range(20):
            name = f"{turn}-{number % 4}"
            ticket = desk.ask(name)
            assert ticket.wait(PATIENCE)
            found.append(ticket.answers == {name: name.upper()})

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    computed = [name for items in desk.model.passes for name in items]
    assert len(found) == 240 and all(found)
    assert len(computed) == len(set(computed)) == 80


def test_an_image_that_fails_fails_alone(desk: Desk) -> None:
    tickets = [desk.busy(), desk.ask("a"), desk.ask("NaN"), desk.ask("b")]
    desk.model.open.set()
    *_, bad, last = answered(*tickets)
    assert isinstance(bad["NaN"], ArithmeticError)
    assert last == {"b": "B"}
    assert "NaN" not in desk.kept


def test_an_image_that_breaks_its_pass_breaks_no_other(desk: Desk) -> None:
    tickets = [desk.busy(), desk.ask("a"), desk.ask("bomb"), desk.ask("b")]
    desk.model.open.set()
    _, first, bad, last = answered(*tickets)
    assert (first, last) == ({"a": "A"}, {"b": "B"})
    assert str(bad["bomb"]) == "bomb of 1"
    assert bad["bomb"].__traceback__ is None  # frames would keep tensors alive
    assert answered(desk.ask("c")) == [{"c": "C"}]  # and the queue goes on


def test_a_visitor_who_leaves_takes_only_his_own_images_along(desk: Desk) -> None:
    tickets = [desk.busy(), desk.ask("a"), gone := desk.ask("shared", "his"), desk.ask("shared")]
    assert tickets[3].ahead == 3
    gone.leave()
    gone.leave()
    assert tickets[3].ahead == 2
    desk.model.open.set()
    answered(tickets[0], tickets[1], tickets[3])
    assert desk.model.passes == [["first"], ["a", "shared"]]
    assert not gone.wait(0)


def test_an_image_that_is_being_computed_is_kept_though_its_visitor_has_left(desk: Desk) -> None:
    desk.busy().leave()
    other = desk.ask("b")
    assert other.ahead == 0
    desk.model.open.set()
    answered(other)
    assert desk.kept["first"] == "FIRST"


def test_places_and_times_follow_the_queue(desk: Desk) -> None:
    desk.model.open.set()
    answered(desk.ask("warm"))
    desk.model.open.clear()
    while desk.model.begun.acquire(blocking=False):
        pass
    first, many, last = desk.busy(), desk.ask(*"abc"), desk.ask("z")
    assert [ticket.ahead for ticket in (first, many, last)] == [0, 1, 2]
    assert 0 < first.seconds < many.seconds < last.seconds
    desk.model.open.set()
    answered(last)
    assert last.ahead == 0


def test_other_work_steps_aside_while_somebody_waits(desk: Desk) -> None:
    assert desk.batcher.step_aside(0)
    desk.busy()
    assert not desk.batcher.step_aside(0.01)
    threading.Timer(0.05, desk.model.open.set).start()
    assert desk.batcher.step_aside(PATIENCE)


def test_memory_is_given_back_once_after_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "REST", 0.02)
    rested, begun = [], []
    batcher: Batcher[str, str] = Batcher(
        Kept(), begin=lambda: begun.append(1), rested=lambda: rested.append(1)
    )
    assert batcher.ask("g", lambda items: items, {"a": "a"}).wait(PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while not rested and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert (begun, rested) == ([1], [1])


# --- what it computes --------------------------------------------------------------------------------


@pytest.fixture
def bundle(weights: Path) -> Bundle:  # noqa: F811
    return load_bundle(SHIPPED, "cpu")


def request_for(bundle: Bundle, *pixels: np.ndarray) -> answers.Request:
    pictures = tuple(answers.Picture(f"{number}.png", content_hash(p), p) for number, p in enumerate(pixels))
    return answers.Request(bundle.name, "v", pictures, bundle.settings("instant", steps=3), False)


def test_visitors_of_one_bundle_share_a_pass_and_have_the_answers_they_would_have_alone(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, whole = [], answers.visualize_many

    def counted(images: Iterator[torch.Tensor], *others: object) -> Iterator[Result]:
        images = list(images)
        passes.append(len(images))
        return whole(images, *others)

    batcher: Batcher[np.ndarray, Result] = Batcher(ResultCache())
    first, second = (request_for(bundle, noise(n, tiny.SIZE), noise(9, tiny.SIZE)) for n in (1, 2))
    alone = [answers.answered(waited(Batcher(ResultCache()), bundle, r), r)[0] for r in (first, second)]
    monkeypatch.setattr(answers, "visualize_many", counted)
    gate = threading.Event()
    batcher.ask("busy", lambda items: gate.wait(PATIENCE) and [], {"busy": noise(0)})
    tickets = [answers.ask_at_once(batcher, bundle, r) for r in (first, second)]
    gate.set()
    for ticket, request, expected in zip(tickets, (first, second), alone, strict=True):
        assert ticket.wait(PATIENCE)
        found, faults = answers.answered(ticket, request)
        assert not faults and found.keys() == expected.keys()
        for key, result in found.items():
            assert torch.allclose(result.anomaly_map, expected[key].anomaly_map, atol=1e-5)
            for tensor in (result.x, result.y, *result.maps.values()):  # none keeps its whole pass
                assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
            assert any(tensor is result.anomaly_map for tensor in result.maps.values())
    assert passes == [3]  # two images of their own, and the one that both have


def waited(batcher: Batcher, bundle: Bundle, request: answers.Request) -> Ticket[Result]:
    ticket = answers.ask_at_once(batcher, bundle, request)
    assert ticket.wait(PATIENCE)
    return ticket


def test_a_picture_that_cannot_be_used_is_named_and_the_others_are_answered(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = answers.to_tensor
    bad = noise(4, tiny.SIZE)
    monkeypatch.setattr(answers, "to_tensor", lambda pixels: whole(pixels) / (pixels is not bad))
    request = request_for(bundle, noise(3, tiny.SIZE), bad)
    found, faults = answers.answered(waited(Batcher(ResultCache()), bundle, request), request)
    assert list(found) == [request.pictures[0].key]
    assert list(faults) == ["1.png"] and "NaN or infinity" in faults["1.png"]


# --- jobs that visitors share ------------------------------------------------------------------------


def test_a_job_that_two_visitors_want_outlives_the_first_ones_interest(weights: Path) -> None:  # noqa: F811
    gate = threading.Event()
    models.jobs().submit("busy", "other", "a long training", lambda job: gate.wait(PATIENCE))
    try:
        query = {"mode": "fast", "all": "true", "rival": "false"}
        first, second = app(PAGES[3], **query), app(PAGES[3], **query)
        job = job_of(second, "visualise")
        assert job is job_of(first, "visualise") and len(job.owners) == 2
        for at in (first, second):
            assert any("Waiting: 1 before this one" in bar.proto.text for bar in at.get("progress"))
        first.pills(key="samples").set_value(["band"])
        sound(first.run())
        assert job_of(first, "visualise") is not job
        assert not job.cancelled
    finally:
        gate.set()
    assert job.wait(PATIENCE) and job.state == DONE


def test_a_personal_job_is_passed_over_when_its_owners_have_left() -> None:
    manager, begun, gate, ran = JobManager(), threading.Event(), threading.Event(), []
    try:

        def work(job: Job) -> None:
            begun.set()
            assert job.label != "running" or gate.wait(PATIENCE)
            ran.append(job.label)

        def submit(name: str, personal: bool = True) -> Job:
            return manager.submit(name, "k", name, work, owner="anna", personal=personal)

        running, gone, back, shared = map(submit, ("running", "gone", "back", "shared"))
        training = submit("training", personal=False)
        assert begun.wait(PATIENCE)
        manager.join(shared, "bert")
        manager.leave("anna")
        manager.join(back, "anna")  # the page was loaded anew
        assert [job.label for job in manager.ahead_of(training)] == ["running", "back", "shared"]
        gate.set()
        assert training.wait(PATIENCE)
        assert ran == ["running", "back", "shared", "training"]
        assert (running.state, gone.state) == (DONE, CANCELLED)
    finally:
        manager.shutdown()


def test_a_job_lets_visitors_who_wait_for_a_moment_go_first() -> None:
    order: list[str] = []
    manager = JobManager(aside=lambda: order.append("aside"))
    try:

        def work(job: Job) -> None:
            for step in "12":
                job.check()
                order.append(step)

        assert manager.submit("x", "k", "x", work).wait(PATIENCE)
        assert order == ["aside", "1", "aside", "2"]
    finally:
        manager.shutdown()


# --- the page ----------------------------------------------------------------------------------------


def test_a_visitor_sees_his_place_while_others_come_first(
    weights: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(components, "MOMENT", 0.05)
    shown: list[str] = []
    whole = components._place
    gate = threading.Event()

    def place(ticket: Ticket[Result]) -> str:
        shown.append(whole(ticket))
        if len(shown) == 3:
            gate.set()
        return shown[-1]

    monkeypatch.setattr(components, "_place", place)
    begun = threading.Event()
    busy = models.batcher().ask(
        "busy", lambda items: begun.set() or (gate.wait(PATIENCE) and [ValueError()]), {"busy": noise(0)}
    )
    assert begun.wait(PATIENCE)
    at = app(PAGES[3], rival="false")
    assert busy.wait(PATIENCE)
    assert shown[0].startswith("In the queue: 1 visitor before you")
    said = words(at)
    assert "If it were normal" in said
    assert "In the queue" not in said and "Your turn" not in said


def test_an_answer_is_shown_though_the_cache_has_let_go_of_it(
    weights: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ResultCache, "get", lambda self, key: None)
    at = app(PAGES[3], rival="false", samples=["missing", "band"])
    assert words(at).count("If it were normal") == 2


def test_the_bytes_of_an_upload_are_let_go_of_at_once(
    weights: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    added, removed = [], []
    whole = MemoryUploadedFileManager.remove_file

    def remove(self: MemoryUploadedFileManager, session_id: str, file_id: str) -> None:
        added.append(len(self.get_files(session_id, [file_id])))
        whole(self, session_id, file_id)
        removed.append(len(self.get_files(session_id, [file_id])))

    monkeypatch.setattr(MemoryUploadedFileManager, "remove_file", remove)
    at = app(PAGES[3], source="upload", rival="false")
    at.file_uploader(key="upload_0").upload("a.png", png(noise(1))).upload("b.png", b"no image")
    sound(at.run())
    assert (added, removed) == ([1, 1], [0, 0])
    assert "If it were normal" in words(at)


def test_few_photos_are_decoded_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now, most, lock = [0], [0], threading.Lock()
    whole = uploads.decode

    def slow(*given: object) -> Decoded:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        with lock:
            now[0] -= 1
        return whole(*given)

    monkeypatch.setattr(uploads, "decode", slow)
    taken = uploads.Uploads(tiny.SIZE, 10)
    threads = [threading.Thread(target=taken.take, args=(f"{n}.png", png(noise(n)))) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(taken.pictures) == 6 and most[0] == 2


def test_what_was_imported_is_not_searched_for_garbage_after_every_run(weights: Path) -> None:  # noqa: F811
    app()
    assert gc.get_freeze_count() > 100_000


def test_every_cache_has_a_bound() -> None:
    """A cache of a function with arguments grows with them; one without holds one thing."""
    seen = 0
    for file in sorted((ROOT / "anounet/app").rglob("*.py")) + sorted((ROOT / "pages").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef) or not (node.args.args or node.args.kwonlyargs):
                continue
            for call in node.decorator_list:
                said = ast.unparse(call)
                if "cache" in said and said != "cached_property":  # it is gone with its object
                    seen += 1
                    assert "max_entries=" in said or "maxsize=" in said, f"{file.name}: {node.name}"
    assert seen > 15


# --- the real server ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def load() -> ModuleType:
    return bench.script("visitors")


def test_visitors_at_once_all_get_their_map_and_alike_images_are_computed_once(
    made: Path,  # noqa: F811
    load: ModuleType,
) -> None:
    environment = {"ANOUNET_WEIGHTS": str(made), "ANOUNET_DATA": str(made / "no-data")}
    with load.serving(environment=environment) as server:
        images = load.Images(64)

        async def visits() -> load.Round:
            await load.alone(server.port, 1, images, SHIPPED)
            return await load.together(server.port, 6, images, SHIPPED, alike=3, leavers=1)

        found = asyncio.run(visits())
        healthy, passes = server.healthy(), server.passes()
    assert [answer.seconds is not None for answer in found.answers] == [True] * 6
    assert not any(answer.broken for answer in found.answers)
    # One alone; then three alike and three others, and perhaps that of the one who left.
    assert sum(images for images, _ in passes) - 1 in (4, 5)
    assert healthy and "Traceback" not in server.said()
