"""Suspicious images, ranked: a table with small pictures, the whole result of one, files, commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from functools import partial

import streamlit as st

from anounet.app import cards, components, downloads, forms, frontend, inputs, models
from anounet.app.jobs import CANCELLED, FAILED, Job, job_id
from anounet.app.texts import plain, t
from anounet.app.work import answers, ranking
from anounet.app.work.ranking import Basis, Ranking, Row
from anounet.bundle import Bundle
from anounet.prepare import DataChoice
from anounet.visualization import Result

RANK = "rank"  # the kind of its jobs
VERDICTS = ("all", "anomalous", "normal")
PAGE_SIZE = 50  # rows that are shown at once
ZIP_MOST = 100  # images whose files are packed at once
SHOWN_FAULTS = 5
PATIENCE = 1.5  # seconds to wait before a progress bar appears
MOMENT = 0.1

_table = frontend.component("ranking")


def basis_of(bundle: Bundle, version: str) -> Basis:
    job = models.jobs().latest(forms.INSTANT, bundle.name)
    return ranking.basis_of(bundle, version, job is not None and job.active)


def show(found: Ranking, basis: Basis, opened: tuple[Bundle, str]) -> None:
    """What is there of a ranking; a job computes what is missing, and any session's page finds it again."""
    found.begin(basis)
    job = _judge(found, basis, opened[0])
    if job is not None:
        components.job_box(job, curves=False)
    for name, fault in list(found.faults().items())[:SHOWN_FAULTS]:
        st.warning(f"{plain(name)}: {plain(fault)}", icon=":material/error:")
    rows = found.rows()
    if not rows:
        return
    bad = sum(row.anomalous for row in rows)
    st.markdown(t("rank.count", n=len(rows), bad=bad, good=len(rows) - bad))
    st.caption(t("rank.by_instant") if basis.redrawn else t("rank.by_distance"))
    with st.container(horizontal=True, vertical_alignment="bottom", key="rank_bar"):
        wanted = inputs.choose_one(t("rank.filter"), "verdict", VERDICTS, verdict_label)
        chosen = [row for row in rows if wanted in ("all", row.verdict)]
        _files(found, chosen, basis, opened)
    if chosen:
        _pages(chosen, {row.key: rank for rank, row in enumerate(rows, 1)})
    else:
        st.info(t("rank.none"), icon=":material/filter_alt_off:")
    known = _open_key()
    row = next((row for row in rows if row.key == known), None)
    if row is not None:
        _card(found, row, rows.index(row), basis, opened)
    elif chosen:
        st.caption(t("rank.choose"))


def verdict_label(name: str) -> str:
    if name == "all":
        return t("rank.all")
    return t("verdict.anomalous") if name == "anomalous" else t("verdict.normal")


def _judge(found: Ranking, basis: Basis, bundle: Bundle) -> Job | None:
    """The job that judges what has no row yet, begun where there is none."""
    jobs, key = models.jobs(), f"rank {found.id} {basis.key}"
    job, missing = jobs.get(job_id(key)), found.missing(basis)
    if not missing or (job is not None and job.active):
        return job
    if job is not None and job.state in (CANCELLED, FAILED) and job.spec == len(found):
        components.job_end(job)
        if not st.button(t("rank.go_on", n=len(missing)), key="rank_go_on", icon=":material/play_arrow:"):
            return job
    batcher, rankings = models.batcher(), models.rankings()
    job = jobs.submit(
        key,
        RANK,
        t("rank.job", n=len(missing)),
        lambda job: ranking.rank(job, found, basis, batcher, bundle, rankings.bound),
        spec=len(found),
        owner=components.owner(),
        bundles=(bundle.name,),
        apart=True,
    )
    components.remember(job, link=False)
    job.wait(PATIENCE)
    return job


def _pages(chosen: Sequence[Row], ranks: dict[str, int]) -> None:
    """The table, a page of it; a click puts the image's name into the link."""
    first = 0
    if len(chosen) > PAGE_SIZE:
        numbers = list(range(1, -(-len(chosen) // PAGE_SIZE) + 1))
        page = st.segmented_control(t("visualise.page"), numbers, default=1, required=True, key="rank_part")
        first = (min(page or 1, numbers[-1]) - 1) * PAGE_SIZE
    words = {
        "table": t("rank.table"),
        "rank": "",
        "pictures": t("rank.pictures"),
        "image": t("table.image"),
        "score": t("table.ratio"),
        "regions": t("table.regions"),
        "verdict": t("table.verdict"),
        "open": t("rank.open"),
    }
    rows = [
        {
            "key": row.key,
            "rank": ranks[row.key],
            "name": row.name,
            "score": f"{row.ratio:.2f}",
            "ratio": row.ratio if row.ratio == row.ratio else 0.0,
            "regions": row.regions,
            "verdict": verdict_label(row.verdict),
            "anomalous": row.anomalous,
            "original": row.original,
            "overlay": row.overlay,
            "alt": t("alt.original", name=row.name),
            "alt_overlay": t("alt.overlay", name=row.name),
        }
        for row in chosen[first : first + PAGE_SIZE]
    ]
    data = {"words": words, "rows": rows, "chosen": _open_key()}
    clicked = _table(key="ranking", data=data, on_chosen_change=lambda: None).chosen
    if isinstance(clicked, str) and clicked != _open_key() and clicked in ranks:
        st.query_params["open"] = clicked
        st.rerun()


def _open_key() -> str:
    return st.query_params.get("open", "")


def _request(basis: Basis, opened: tuple[Bundle, str], *pictures: answers.Picture) -> answers.Request:
    bundle, version = opened
    return answers.Request(bundle.name, version, pictures, basis.settings, gate=False)


def _card(found: Ranking, row: Row, number: int, basis: Basis, opened: tuple[Bundle, str]) -> None:
    """The whole result of one image, computed again where it is no longer kept."""
    picture, bundle = found.picture(row.key), opened[0]
    if picture is None:
        return
    request = _request(basis, opened, picture)
    if not basis.redrawn and "map" not in st.session_state and "map" not in st.query_params:
        st.session_state["map"] = basis.map  # the one that the table goes by
    view = inputs.choose_view(bundle, request.settings)
    ticket = ranking.ask_redrawn(models.batcher(), bundle, request, picture)
    try:
        with st.spinner(t("rank.opening", name=plain(row.name))):
            while not ticket.wait(MOMENT):
                st.empty()  # where the run of a visitor who has left ends
        answer = ticket.answers[request.full(picture)]
    finally:
        ticket.leave()
    if not isinstance(answer, Result):
        st.error(components.sentence(answer), icon=":material/error:")
        return
    cards.result_card(picture, answer, {}, request, view, bundle, pending=False, number=number)


# --- files and commands ------------------------------------------------------------------------------


def _files(found: Ranking, chosen: Sequence[Row], basis: Basis, opened: tuple[Bundle, str]) -> None:
    """The rows that are shown, as files."""
    st.download_button(
        t("rank.csv"),
        partial(csv_of, chosen),
        "ranking.csv",
        key="rank_csv",
        on_click="ignore",
        icon=":material/table_rows:",
        disabled=not chosen,
    )
    first, batcher, facts = chosen[:ZIP_MOST], models.batcher(), _request(basis, opened).facts

    def everything() -> Iterator[downloads.Shown]:
        keys = [row.key for row in first]
        for picture, answer in ranking.results(lambda: None, found, keys, basis, batcher, opened[0]):
            if isinstance(answer, Result):
                yield downloads.Shown(picture.name, answer)

    st.download_button(
        t("rank.zip_first", n=ZIP_MOST) if len(chosen) > ZIP_MOST else t("download.zip"),
        lambda: downloads.zip_bytes(everything(), basis.view, facts),
        "ranking.zip",
        key="rank_zip",
        on_click="ignore",
        icon=":material/folder_zip:",
        disabled=not chosen,
    )


def csv_of(rows: Sequence[Row]) -> str:
    """A line an image, the highest score first: the columns of scores.csv, the rank and the ratio."""
    lines = (
        [
            rank,
            f"{row.ratio:.4f}",
            downloads.cell(row.name),
            row.method,
            f"{row.score:.6f}",
            f"{row.threshold:.6f}",
            row.verdict,
            row.map,
            f"{row.top:.6f}",
            f"{row.scale:.6f}",
            f"{row.limit:.6f}",
            row.regions,
            f"{row.seconds:.3f}",
        ]
        for rank, row in enumerate(rows, 1)
    )
    return downloads.csv_text(("rank", "times_threshold", *downloads.SCORES), lines)


def commands(bundle: Bundle, basis: Basis) -> tuple[str, str]:
    """The command that makes a bundle like this one, and the one that judges images as the page does."""
    start = "python -m anounet"
    prepare = [start, "prepare --data good --name", shlex.quote(bundle.name)]
    if bundle.size != DataChoice.size:
        prepare.append(f"--size {bundle.size}")
    if bundle.center is not None and bundle.center.metric != "l1":
        prepare.append(f"--score {bundle.center.metric}")
    if bundle.instant is None:
        prepare.append("--no-instant")
    visualize = [start, "visualize suspicious --bundle", shlex.quote(bundle.name), "--out maps"]
    if not basis.redrawn:
        visualize.append("--mode fast --center local --map distance")
    return " ".join(prepare), " ".join(visualize)


def show_commands(bundle: Bundle, basis: Basis) -> None:
    with st.expander(t("rank.commands"), icon=":material/terminal:"):
        st.markdown(t("rank.commands_help"))
        prepare, visualize = commands(bundle, basis)
        st.code(prepare, language="bash", wrap_lines=True)
        st.code(visualize, language="bash", wrap_lines=True)
