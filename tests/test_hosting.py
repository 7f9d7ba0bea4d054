"""What hosts go by: requirements.txt, the Dockerfile and what is let into its image."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from anounet.bundle import SHIPPED

ROOT = Path(__file__).resolve().parent.parent
CPU_INDEX = "--extra-index-url https://download.pytorch.org/whl/cpu"


def lines_of(name: str) -> list[str]:
    """A file's lines without comments, those that go on in the next one joined."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def copied() -> list[str]:
    """What the Dockerfile copies into the image, relative to the root."""
    copies = [line.split()[1:] for line in lines_of("Dockerfile") if line.startswith("COPY ")]
    return [source for words in copies for source in words[:-1] if not source.startswith("--")]


def test_both_lists_of_requirements_are_the_same() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    first, *requirements = lines_of("requirements.txt")
    assert first == CPU_INDEX  # of uv's indexes the first that has a package counts, and PyPI comes last
    assert requirements == project["dependencies"]


@pytest.mark.parametrize("name", ["uv.lock", "Pipfile", "environment.yml", "packages.txt"])
def test_no_file_comes_before_requirements_or_beside_it(name: str) -> None:
    """Community Cloud would install from the first three in its place, and Debian packages from the last."""
    assert not (ROOT / name).exists()


def test_the_dockerfile_keeps_its_promises() -> None:
    lines = lines_of("Dockerfile")
    place = {word: index for index, line in enumerate(lines) for word in [line.partition(" ")[0]]}  # the last
    install = next(i for i, line in enumerate(lines) if "pip install" in line)
    code = next(i for i, line in enumerate(lines) if line == "COPY anounet anounet")
    assert install < code, "a change of the code would install torch anew"
    assert lines[place["FROM"]] == "FROM python:3.12-slim"
    assert lines[place["USER"]] not in ("USER root", "USER 0")
    assert max(place["COPY"], place["RUN"]) < place["USER"] < place["CMD"]
    command = json.loads(lines[place["CMD"]].removeprefix("CMD "))
    assert "--server.address=0.0.0.0" in command and "--server.port=8501" in command
    assert "EXPOSE 8501" in lines


def test_the_health_check_asks_streamlit() -> None:
    (line,) = [line for line in lines_of("Dockerfile") if line.startswith("HEALTHCHECK")]
    program, flag, code = json.loads(line[line.index("CMD ") + 4 :])
    assert (program, flag) == ("python", "-c") and "http://127.0.0.1:8501/_stcore/health" in code
    # Nothing listens at port 1: an unhealthy answer is a status other than 0, and so is none.
    deaf = subprocess.run([sys.executable, "-c", code.replace("8501", "1")], capture_output=True, timeout=60)
    assert deaf.returncode == 1 and b"URLError" in deaf.stderr


def test_what_is_copied_is_let_in() -> None:
    ignore = lines_of(".dockerignore")
    assert ignore[0] == "*", "nothing but what is named"
    assert {line[1:] for line in ignore if line.startswith("!")} == set(copied())
    assert not [source for source in copied() if not (ROOT / source).exists()]


def test_the_app_runs_on_what_is_copied(tmp_path: Path) -> None:
    for source in copied():
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, tmp_path / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, tmp_path / source)
    code = (
        "import anounet; from streamlit.testing.v1 import AppTest\n"
        "app = AppTest.from_file('streamlit_app.py', default_timeout=120).run()\n"
        "print(anounet.__file__, [error.value for error in [*app.exception, *app.error]], len(app.title))"
    )
    environment = {k: v for k, v in os.environ.items() if not re.match("ANOUNET_|PYTHONPATH", k)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    where, rest = done.stdout.strip().splitlines()[-1].split(" ", 1)
    assert Path(where).is_relative_to(tmp_path)
    assert rest == "[] 1", rest


def said_by(code: str) -> list[str]:
    """The lines that a program prints which runs in the project's folder, and warns of nothing."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return done.stdout.splitlines()


def test_the_server_listens_when_all_is_loaded() -> None:
    """What the first visitor would wait for is there before it, however it was started."""
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from streamlit.web.server.app_discovery import discover_asgi_app\n"
        "module, name = discover_asgi_app(Path('streamlit_app.py')).import_string.split(':')\n"
        "app = getattr(__import__(module), name)\n"
        "said, asked = [], ['startup', 'shutdown']\n"
        "async def receive():\n"
        "    if said:\n"
        "        from anounet.app import models\n"
        "        models.load_bundle = None  # it is open already\n"
        "        print('anounet.app.cards' in sys.modules, 'pandas' in sys.modules)\n"
        "        print(models.bundle(models.SHIPPED)[0].name, models._settled.locked())\n"
        "    return {'type': f'lifespan.{asked.pop(0)}'}\n"
        "async def send(message):\n"
        "    said.append(message['type'])\n"
        "asyncio.run(app({'type': 'lifespan', 'asgi': {'version': '3.0'}}, receive, send))\n"
        "print(*said)\n"
    )
    assert said_by(code) == [
        "True True",
        f"{SHIPPED} True",
        "lifespan.startup.complete lifespan.shutdown.complete",
    ]


def test_the_app_command_is_streamlit_with_its_options() -> None:
    code = (
        "import sys\n"
        "from anounet.app import server\n"
        "server.cli.main = lambda prog_name: print(sys.argv)\n"
        "from anounet.cli import main\n"
        "main(['app', '--server.port', '8599'])\n"
    )
    words = ["streamlit", "run", str(ROOT / "streamlit_app.py"), "--server.port", "8599"]
    assert said_by(code) == [str(words)]
