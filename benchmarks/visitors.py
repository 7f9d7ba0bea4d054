"""Many visitors of the app at once: all upload an image at the same moment, and wait for its map.

    python -m anounet bench visitors [--visitors 25] [--uploads 500] [--bundle NAME] [--json FILE]

Starts the real server, on two cores where the machine has more, and drives it over Streamlit's own protocol:
a websocket for each visitor, uploads by HTTP, no browser, so that the cores are the server's. Every visitor
opens the page Visualise; when all have, each uploads an image of its own at once, but for a few who share
one, and some who close the page without waiting. Then new visitors come, until there were enough uploads. A
wait is the time from choosing the file to the message that holds its heat map; beside it stand those of a
visitor who is alone on the server, before and after. Resident memory is read where nothing is going on.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import os
import platform
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from itertools import zip_longest
from pathlib import Path
from typing import Any

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect

from anounet.bundle import SHIPPED, read_info
from anounet.cli.common import table
from anounet.datasets.textures import sample
from anounet.images import png_bytes
from anounet.storage import write_json

ROOT = Path(__file__).resolve().parents[1]
CORES = 2
PATIENCE = 180.0  # seconds for one answer
SETTLE = 8.0  # seconds of rest before memory is read: the server hands back what is free after 5
LONE = 10  # uploads of the visitor who is alone
EARLY = 50  # uploads after which memory is compared with that at the end
SHARED = 5  # one visitor in so many uploads the image that the others of these upload
LEAVES = 8  # beside so many visitors comes one who does not wait
QUEUE = re.compile(r"(\d+) visitors? before you")
PASS = re.compile(r"pass: (\d+) images? for (\d+) visitors?")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m anounet bench visitors", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--visitors", type=int, default=25, metavar="N", help="at once (default: 25)")
    parser.add_argument("--uploads", type=int, default=500, metavar="N", help="in all (default: 500)")
    parser.add_argument("--bundle", default=SHIPPED, metavar="NAME", help=f"default: {SHIPPED}")
    parser.add_argument("--side", type=int, default=256, metavar="PX", help="of an image (default: 256)")
    parser.add_argument(
        "--json", type=Path, default=None, metavar="FILE", help="write the figures to FILE too"
    )
    given = parser.parse_args(arguments)
    if min(given.visitors, given.uploads) < 1 or given.side < 8:
        raise ValueError("--visitors and --uploads are at least 1, --side at least 8.")
    read_info(given.bundle)  # says what is wrong, where something is
    with serving() as server:
        figures = asyncio.run(measure(server, given.visitors, given.uploads, given.bundle, given.side))
    figures["exceptions in the server's log"] = server.said().count("Traceback")
    print(
        f"{date.today()}, {platform.machine()}, {CORES} cores for server and visitors, '{given.bundle}', "
        f"{given.visitors} visitors at once, {given.uploads} uploads\n\n"
        + table([{"": name, "figure": value} for name, value in figures.items()])
    )
    if given.json is not None:
        write_json(given.json, figures | {"settings": {k: str(v) for k, v in vars(given).items()}})
    return 0


# --- the server --------------------------------------------------------------------------------------


class Server:
    """The app in a process of its own; `starting` are the seconds until it listened."""

    starting = 0.0

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process, self.port = process, port
        self._log, self._last = log, ""

    def said(self) -> str:
        """All that it wrote, after its end too."""
        if self._log.exists():
            self._last = self._log.read_text(encoding="utf-8", errors="replace")
        return self._last

    def healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/_stcore/health", timeout=10) as answer:
                return answer.read() == b"ok"
        except (urllib.error.URLError, OSError):
            return False

    def memory(self, what: str = "VmRSS") -> float | None:
        """Megabytes, now (`VmRSS`) or at the peak (`VmHWM`); None where the system does not say."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        except OSError:
            return None
        found = re.search(rf"{what}:\s+(\d+) kB", status)
        return int(found[1]) / 1024 if found else None

    def passes(self) -> list[tuple[int, int]]:
        """Each pass of the model so far: images, and visitors who waited for them."""
        return [(int(images), int(visitors)) for images, visitors in PASS.findall(self.said())]


@contextmanager
def serving(cores: int = CORES, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Starts the app on a free port, waits until it is healthy, and ends it afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {
        "headless": "true",
        "address": "127.0.0.1",
        "port": str(port),
        "fileWatcherType": "none",
    }
    words = [sys.executable, "-m", "streamlit", "run", "streamlit_app.py"]
    words += [word for name, value in options.items() for word in (f"--server.{name}", value)]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.txt"
        with log.open("wb") as file:
            process = subprocess.Popen(
                words,
                cwd=ROOT,
                env=os.environ | {"ANOUNET_LOG_PASSES": "1"} | dict(environment or {}),
                stdout=file,
                stderr=subprocess.STDOUT,
                preexec_fn=_limit(cores),
            )
        server = Server(process, port, log)
        try:
            begun = time.monotonic()
            while not server.healthy():
                if process.poll() is not None or time.monotonic() > begun + PATIENCE:
                    raise ValueError(f"The app did not start: {server.said()[-400:]}")
                time.sleep(0.2)
            server.starting = time.monotonic() - begun
            yield server
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            server.said()  # while the file is there


def _limit(cores: int) -> Callable[[], None] | None:
    if not hasattr(os, "sched_setaffinity"):
        return None
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    return lambda: os.sched_setaffinity(0, allowed)


# --- visitors ----------------------------------------------------------------------------------------


@dataclass
class Answer:
    """What came of one upload."""

    seconds: float | None  # from choosing the file to its map; None: it never came
    places: list[int] = field(default_factory=list)  # in the queue, as the visitor saw them
    broken: bool = False  # the page showed an exception


class Visitor:
    """A browser's side of Streamlit's protocol, as far as this page needs it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: ClientConnection | None = None
        self._session = self._page = self._query = self._uploader = ""
        self._token = ""

    async def arrive(self, page: str = "visualise", **query: str) -> float:
        """Opens a page with a field for uploads; gives the seconds until it stands there."""
        begun = time.monotonic()
        await self._begin(page, **query)
        while not (self._finished(await self._next()) and self._uploader):
            pass
        return time.monotonic() - begun

    async def _begin(self, page: str, **query: str) -> None:
        """Connects, and asks for a page."""
        self._token = await asyncio.to_thread(self._xsrf_token)
        address = f"ws://127.0.0.1:{self._port}/_stcore/stream"
        self._socket = await connect(
            address, subprotocols=["streamlit"], max_size=None, compression=None, ping_timeout=PATIENCE
        )
        self._query = "&".join(f"{name}={value}" for name, value in query.items())
        await self._run(page_name=page)

    async def upload(self, name: str, data: bytes) -> Answer:
        """Hands in one image and waits until the page is at rest again."""
        begun, answer = time.monotonic(), Answer(None)
        await self._hand_in(name, data)
        sought = f'alt="Heat map of {name}'
        while True:
            message = await self._next()
            kind = message.WhichOneof("type")
            if kind == "delta":
                element = message.delta.new_element
                if element.WhichOneof("type") == "exception":
                    answer.broken = True
                elif element.WhichOneof("type") == "html" and sought in element.html.body:
                    answer.seconds = answer.seconds or time.monotonic() - begun
                elif place := QUEUE.search(element.markdown.body):
                    answer.places.append(int(place[1]))
            elif self._finished(message):
                return answer

    async def upload_and_leave(self, name: str, data: bytes) -> None:
        await self._hand_in(name, data)
        await self.leave()

    async def leave(self) -> None:
        if self._socket is not None:
            await self._socket.close()

    async def _hand_in(self, name: str, data: bytes) -> None:
        asked = BackMsg()
        asked.file_urls_request.request_id = name
        asked.file_urls_request.session_id = self._session
        asked.file_urls_request.file_names.append(name)
        await self._send(asked)
        while (message := await self._next()).WhichOneof("type") != "file_urls_response":
            pass
        (urls,) = message.file_urls_response.file_urls
        await asyncio.to_thread(self._put, urls.upload_url, name, data)
        given = BackMsg()
        state = given.rerun_script.widget_states.widgets.add(id=self._uploader)
        state.file_uploader_state_value.uploaded_file_info.add(
            name=name, size=len(data), file_id=urls.file_id, file_urls=urls
        )
        await self._run(given)

    async def _run(self, message: BackMsg | None = None, page_name: str = "") -> None:
        message = message or BackMsg()
        script = message.rerun_script
        script.query_string, script.page_script_hash, script.page_name = self._query, self._page, page_name
        await self._send(message)

    async def _send(self, message: BackMsg) -> None:
        await self._socket.send(message.SerializeToString())

    async def _next(self) -> ForwardMsg:
        """The server's next message; what a browser keeps of it is kept."""
        message = ForwardMsg()
        message.ParseFromString(await asyncio.wait_for(self._socket.recv(), PATIENCE))
        kind = message.WhichOneof("type")
        if kind == "new_session":
            self._page = message.new_session.page_script_hash
            self._session = message.new_session.initialize.session_id
        elif kind == "page_info_changed":
            self._query = message.page_info_changed.query_string
        elif kind == "delta" and message.delta.new_element.WhichOneof("type") == "file_uploader":
            self._uploader = message.delta.new_element.file_uploader.id
        return message

    @staticmethod
    def _finished(message: ForwardMsg) -> bool:
        """Whether a run came to its own end, and not to that of a page that calls for another run."""
        return (
            message.WhichOneof("type") == "script_finished"
            and message.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY
        )

    def _xsrf_token(self) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        try:
            connection.request("GET", "/_stcore/health")
            cookie = connection.getresponse().getheader("Set-Cookie") or ""
        finally:
            connection.close()
        return cookie.partition("_streamlit_xsrf=")[2].partition(";")[0]

    def _put(self, path: str, name: str, data: bytes) -> None:
        edge = "----visitor"
        head = f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        body = f"{head}Content-Type: image/png\r\n\r\n".encode() + data + f"\r\n--{edge}--\r\n".encode()
        headers = {
            "Content-Type": f"multipart/form-data; boundary={edge}",
            "X-Xsrftoken": self._token,
            "Cookie": f"_streamlit_xsrf={self._token}",
        }
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        try:
            connection.request("PUT", path, body, headers)
            answer = connection.getresponse()
            if answer.status != 204:
                raise ValueError(f"The server refused {name}: {answer.status} {answer.read()[:200]!r}.")
        finally:
            connection.close()


class Images:
    """PNG files of textures, good and defective, no two alike."""

    def __init__(self, side: int) -> None:
        self._side, self._number = side, 0

    def __call__(self) -> tuple[str, bytes]:
        self._number += 1
        pixels = sample("streaks", "test", self._number, size=self._side, defective=self._number % 2 == 0)[0]
        return f"image-{self._number}.png", png_bytes(pixels)


@dataclass
class Round:
    """What came of visitors who uploaded at the same moment."""

    answers: list[Answer]
    opened: list[float]  # seconds until each one's page stood there


async def together(
    port: int, count: int, images: Images, bundle: str, alike: int | None = None, leavers: int | None = None
) -> Round:
    """`count` visitors with an image each at once.

    Args:
        alike: how many of them have the same.
        leavers: how many come beside them who do not wait.
    """
    alike = count // SHARED if alike is None else alike
    shared = images()
    files = [shared if number < alike else images() for number in range(count)]
    visitors = [Visitor(port) for _ in files]
    hasty = [Visitor(port) for _ in range(count // LEAVES if leavers is None else leavers)]
    opened = await asyncio.gather(*(_opened(visitor, bundle) for visitor in visitors + hasty))
    try:
        waiting = [visitor.upload(*file) for visitor, file in zip(visitors, files, strict=True)]
        leaving = [visitor.upload_and_leave(*images()) for visitor in hasty]
        # In turn, as they would come.
        mixed = [task for pair in zip_longest(waiting, leaving) for task in pair if task is not None]
        found = await asyncio.gather(*mixed, return_exceptions=True)
    finally:
        await asyncio.gather(*(visitor.leave() for visitor in visitors))
    answers = [answer for answer in found if isinstance(answer, Answer)]
    lost = sum(isinstance(answer, BaseException) for answer in found)
    return Round(answers + [Answer(None)] * lost, opened)


async def alone(port: int, count: int, images: Images, bundle: str) -> Round:
    """`count` visitors, one after the other, each gone when the next one comes."""
    found = Round([], [])
    for _ in range(count):
        visitor = Visitor(port)
        found.opened.append(await _opened(visitor, bundle))
        found.answers.append(await visitor.upload(*images()))
        await visitor.leave()
    return found


async def _opened(visitor: Visitor, bundle: str) -> float:
    return await visitor.arrive(source="upload", rival="false", bundle=bundle)


# --- figures -----------------------------------------------------------------------------------------


async def measure(server: Server, visitors: int, uploads: int, bundle: str, side: int) -> dict[str, Any]:
    """The load, round by round, and what is to be told of it."""
    images, healthy = Images(side), server.healthy()
    cold = await alone(server.port, 1, images, bundle)
    before = await alone(server.port, LONE, images, bundle)
    earlier = len(server.passes())
    rounds: list[Round] = []
    early, first, done = None, 0, 0
    while done < uploads:
        rounds.append(await together(server.port, min(visitors, uploads - done), images, bundle))
        done += len(rounds[-1].answers)
        print(f"{done} of {uploads} uploads, {server.memory() or 0:.0f} MB", file=sys.stderr, flush=True)
        if early is None and done >= min(EARLY, uploads):
            await asyncio.sleep(SETTLE)
            early, first = server.memory(), done
    await asyncio.sleep(SETTLE)
    late, passes = server.memory(), server.passes()[earlier:]
    after = await alone(server.port, LONE, images, bundle)
    answers = [answer for found in rounds for answer in found.answers]
    waits = sorted(answer.seconds for answer in answers if answer.seconds is not None)
    places = [answer.places for answer in answers if answer.places]
    return {
        "got their map": f"{len(waits)} of {len(answers)}",
        "wait, median": _seconds(waits, statistics.median),
        "wait, worst": _seconds(waits, max),
        "page opened, median": _seconds([s for found in rounds for s in found.opened], statistics.median),
        "saw a place in the queue": f"{len(places)}, up to {max(map(max, places))}" if places else "0",
        "images computed": str(sum(n for n, _ in passes)) if passes else "–",
        "passes of the model": str(len(passes)) if passes else "–",
        "images in a pass, most": str(max(n for n, _ in passes)) if passes else "–",
        "pages that broke": str(sum(answer.broken for answer in answers)),
        f"memory after {first} uploads": _megabytes(early),
        f"memory after {done} uploads": _megabytes(late),
        "ratio": f"{late / early:.2f}" if late and early else "–",
        "memory, peak": _megabytes(server.memory("VmHWM")),
        "first visit, cold server": f"page {_seconds(cold.opened, max)}, map {_alone(cold)}",
        "alone before, median": _alone(before),
        "alone after, median": _alone(after),
        "healthy before, after": f"{healthy}, {server.healthy()}",
    }


def _alone(found: Round) -> str:
    return _seconds([a.seconds for a in found.answers if a.seconds is not None], statistics.median)


def _seconds(values: list[float], of: Callable[[list[float]], float]) -> str:
    return f"{of(values):.3f} s" if values else "–"


def _megabytes(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} MB"


if __name__ == "__main__":
    sys.exit(main())
