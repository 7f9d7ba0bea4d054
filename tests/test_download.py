"""Downloads from a server on this machine: broken off, resumed, wrong, and none at all."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from test_arrays import cifar_tree, gzipped, idx_tree, tar_gz

from anounet import _torchvision
from anounet.app import models
from anounet.app.jobs import CANCELLED, DONE, FAILED, Job
from anounet.app.work import fetching
from anounet.cli import main
from anounet.datasets import SPLITS, DataError, available, download, find, open_set

ROOT = Path(__file__).resolve().parent.parent
ARCHIVE = "cifar-10-python.tar.gz"


class Server(ThreadingHTTPServer):
    """Serves some files, as broken as a test wants.

    Attributes:
        files: name → its bytes.
        breaks: after so many bytes the next answers end, although more were announced.
        ranges: whether parts of files are sent.
        asked: (name, the Range header) of each request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.breaks: list[int] = []
        self.ranges = True
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name, wanted = self.path.strip("/"), self.headers["Range"]
        self.server.asked.append((name, wanted))
        data = self.server.files.get(name)
        if data is None:
            return self.send_error(404)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.ranges else 0
        if start >= len(data):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        end = start + self.server.breaks.pop(0) if self.server.breaks else len(data)
        self.wfile.write(data[start:end])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """torchvision's addresses and checksums, for small files in the same layouts; and an empty home."""
    server = Server()
    fashion = {name.rsplit("/", 1)[1]: data for name, data in gzipped(idx_tree()).items()}
    server.files = {ARCHIVE: tar_gz(cifar_tree()), **fashion}
    known = _torchvision.datasets
    monkeypatch.setattr(known.CIFAR10, "url", server.url + ARCHIVE)
    monkeypatch.setattr(known.CIFAR10, "tgz_md5", md5(server.files[ARCHIVE]))
    monkeypatch.setattr(known.FashionMNIST, "mirrors", [server.url])
    monkeypatch.setattr(known.FashionMNIST, "resources", [(n, md5(data)) for n, data in fashion.items()])
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setenv("ANOUNET_DATA", str(tmp_path / "sets"))
    monkeypatch.chdir(tmp_path)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def fetch(name: str = "cifar10", folder: str = "data") -> list[download.Fetched]:
    return list(download.download(name, Path(folder)))


PART = Path("data/cifar10", f"{ARCHIVE}.part")


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist"])
def test_what_was_downloaded_can_be_opened(server: Server, name: str) -> None:
    steps = fetch(name)
    assert [len(open_set(name, split)) for split in SPLITS][2] == 20
    assert open_set(name, "test").name == name
    assert available()[name] == find(name) == Path("data", name)
    assert not list(Path("data").rglob("*.part"))
    for file in {step.file for step in steps}:
        done = [step.done for step in steps if step.file == file]
        assert done == sorted(done) and {step.total for step in steps if step.file == file} == {done[-1]}


def test_what_is_there_is_not_fetched_again(server: Server) -> None:
    fetch("fashion_mnist")
    Path("data/fashion_mnist/FashionMNIST/raw/t10k-labels-idx1-ubyte.gz").write_bytes(b"damaged")
    server.asked.clear()
    fetch("fashion_mnist")
    assert server.asked == [("t10k-labels-idx1-ubyte.gz", None)]


def test_a_broken_connection_is_opened_again_where_it_broke(server: Server) -> None:
    server.breaks = [1000, 500]
    fetch()
    assert server.asked == [(ARCHIVE, None), (ARCHIVE, "bytes=1000-"), (ARCHIVE, "bytes=1500-")]
    assert Path("data/cifar10", ARCHIVE).read_bytes() == server.files[ARCHIVE]


def test_another_call_goes_on_where_the_first_one_ended(server: Server) -> None:
    server.breaks = [1000, 0]
    with pytest.raises(DataError, match=r"broke off after 0\.0 MB, which are kept .*try again, or put the"):
        fetch()
    assert PART.stat().st_size == 1000
    server.asked.clear()
    fetch()
    assert server.asked == [(ARCHIVE, "bytes=1000-")]
    assert not PART.exists()
    assert len(open_set("cifar10", "test")) == 20


def test_a_stream_that_is_closed_keeps_its_part(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_CHUNK", 100)
    stream = download.download("cifar10", Path("data"))
    for _ in range(5):
        next(stream)
    stream.close()
    assert PART.stat().st_size == 500
    server.asked.clear()
    fetch()
    assert server.asked == [(ARCHIVE, "bytes=500-")]


def test_a_server_without_parts_sends_it_all_again(server: Server) -> None:
    server.breaks, server.ranges = [1000], False
    fetch()
    assert Path("data/cifar10", ARCHIVE).read_bytes() == server.files[ARCHIVE]


def test_a_part_that_is_whole_only_gets_its_name(server: Server) -> None:
    PART.parent.mkdir(parents=True)
    PART.write_bytes(server.files[ARCHIVE])
    fetch()
    assert len(open_set("cifar10", "test")) == 20


def test_another_file_than_torchvision_knows_is_refused(server: Server) -> None:
    server.files[ARCHIVE] = server.files[ARCHIVE][::-1]
    with pytest.raises(DataError, match=r"is not the file that torchvision knows .* was deleted: try again"):
        fetch()
    assert not any(Path("data/cifar10").iterdir())
    with pytest.raises(DataError, match="holds no data set"):
        open_set("cifar10", "train")


def test_too_large_a_file_ends_early(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", 2000)
    with pytest.raises(DataError, match="gives more than 0 MB: it was not fetched"):
        fetch()
    assert not Path("data/cifar10", ARCHIVE).exists()


def test_without_a_network_it_says_what_to_do_by_hand(server: Server) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(DataError) as caught:
        fetch("fashion_mnist")
    said = str(caught.value)
    assert f"{server.url}train-images-idx3-ubyte.gz cannot be reached (" in said
    assert "put the file by hand into 'data/fashion_mnist/FashionMNIST/raw'" in said


def test_a_file_that_is_gone_is_named(server: Server) -> None:
    server.files.clear()
    with pytest.raises(DataError, match=rf"{ARCHIVE} cannot be reached \(Not Found\)"):
        fetch()


def test_a_set_that_cannot_be_downloaded_is_refused() -> None:
    with pytest.raises(DataError, match="'dagm' cannot be downloaded: choose from cifar10, fashion_mnist"):
        fetch("dagm")


def test_torchvision_s_addresses_are_the_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [remote.file for remote in download.remotes("cifar10")] == [ARCHIVE]
    files = [remote.file for remote in download.remotes("fashion_mnist")]
    assert len(files) == 4 and all(file.startswith("FashionMNIST/raw/") for file in files)
    for name in download.SIZES:
        for remote in download.remotes(name):
            assert remote.url.startswith("http") and len(remote.md5) == 32


# --- by name -----------------------------------------------------------------------------------------


def test_a_set_in_the_folder_of_data_comes_first(server: Server) -> None:
    fetch("cifar10", "sets")
    fetch("cifar10", "data")
    assert find("cifar10") == Path.cwd() / "sets/cifar10"
    assert main(["download", "cifar10"]) == 0


def test_a_download_that_broke_off_hides_no_set(server: Server) -> None:
    fetch("cifar10")
    Path("sets/cifar10").mkdir(parents=True)
    Path("sets/cifar10", f"{ARCHIVE}.part").write_bytes(b"begun")
    assert len(open_set("cifar10", "test")) == 20


def test_torchvision_s_own_folders_are_found(server: Server) -> None:
    for name, data in (cifar_tree() | idx_tree()).items():
        path = Path("data", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert len(open_set("cifar10", "test")) == len(open_set("fashion_mnist", "test")) == 20


def test_a_set_that_is_not_here_says_how_to_get_it(server: Server) -> None:
    with pytest.raises(DataError, match="'python -m anounet download cifar10' gets it"):
        open_set("cifar10", "train")


# --- command line ------------------------------------------------------------------------------------


def test_the_command_line_downloads(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "fashion_mnist", "--to", "elsewhere", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"name": "fashion_mnist", "where": "elsewhere/fashion_mnist"}
    assert "train-images-idx3-ubyte.gz (kB)" in shown.err
    assert len(open_set("elsewhere/fashion_mnist", "test")) == 20
    assert main(["download", "cifar10"]) == 0
    assert "cifar10 is in data/cifar10" in capsys.readouterr().out
    assert main(["download", "cifar10"]) == 0
    assert "cifar10 is here already: data/cifar10" in capsys.readouterr().out


def test_the_command_line_says_in_one_line_what_is_wrong(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files.clear()
    assert main(["download", "cifar10"]) == 2
    line = capsys.readouterr().err.strip()
    assert line.startswith("anounet: http://127.0.0.1") and "\n" not in line


# --- page --------------------------------------------------------------------------------------------


def fetched_on_the_page() -> tuple[AppTest, Job]:
    at = AppTest.from_file(str(ROOT / "streamlit_app.py"), default_timeout=60)
    at.switch_page("pages/1_f_net.py").run()
    assert not at.exception
    at.button(key="fetch_fashion_mnist").click().run()
    job = models.jobs().get(at.session_state["_job_fetch"])
    assert job.wait(60)
    at.run()
    assert not at.exception
    return at, job


@pytest.fixture
def page(weights: Path) -> Iterator[None]:
    models.forget_data()
    yield
    models.jobs().shutdown()
    models.forget_data()


def test_a_page_downloads_what_is_missing(server: Server, page: None) -> None:
    at, job = fetched_on_the_page()
    assert (job.state, job.result) == (DONE, "fashion_mnist")
    keys = {button.key for button in at.button}
    assert "fetch_cifar10" in keys and "fetch_fashion_mnist" not in keys
    assert "fashion_mnist" in models.data_names()
    assert any("Fashion-MNIST is here" in said.value for said in at.success)


def test_a_page_says_that_there_is_no_network(server: Server, page: None) -> None:
    server.files.clear()
    at, job = fetched_on_the_page()
    assert job.state == FAILED
    assert any("cannot be reached" in said.value for said in at.error)
    assert not at.button(key="fetch_fashion_mnist").disabled


def test_a_download_that_is_stopped_keeps_its_part(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_CHUNK", 100)

    class Stopped(Job):
        def check(self) -> None:
            if self.progress.done >= 1:
                self.cancel()
            super().check()

    job = Stopped("fetch", "fetch", "", partial(fetching.fetch, name="cifar10"))
    job.run()
    assert job.state == CANCELLED and PART.stat().st_size == 1000
