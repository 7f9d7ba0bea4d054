"""Experiments: the article's, as they were measured, and measured anew on the visitor's choice of images."""

import streamlit as st

from anounet.app import components, inputs, reports, routing
from anounet.app.texts import t
from anounet.experiments import PLAIN, Experiment, Report, experiment
from anounet.storage import WeightsError

routing.enter("experiments")
components.header(t("experiments.title"), t("experiments.lead"))


def choose() -> Experiment:
    names = reports.experiment_names()
    inputs.accept_plain("experiment", names, reports.experiment_title)
    name = st.selectbox(
        t("experiments.choose"),
        names,
        index=reports.first_that_is_here(names),
        key="experiment",
        bind="query-params",
        format_func=reports.experiment_title,
    )
    return experiment(name)


def choose_bundle(chosen: Experiment) -> str | None:
    """The plain bundle or a variant; None, with the command that makes it, where there is none."""
    try:
        names = chosen.bundles()
    except WeightsError as error:
        st.subheader(t("experiments.kept"), anchor=False)
        reports.problem(error)
        return None
    if len(names) == 1:
        return names[0]
    variants = {name.removeprefix(chosen.name).removeprefix("-") or PLAIN: name for name in names}
    return variants[
        inputs.choose_one(t("experiments.variant"), "variant", list(variants), reports.variant_label)
    ]


def show_kept(chosen: Experiment, bundle: str) -> Report | None:
    st.subheader(t("experiments.kept"), anchor=False)
    report = reports.kept_report(bundle)
    if report is None:
        st.info(t("experiments.none", name=chosen.name), icon=":material/terminal:")
        return None
    reports.show_report(report, "kept")
    reports.show_kept_figure(report)
    return report


def show_live(chosen: Experiment, bundle: str, report: Report | None) -> None:
    """The figure's images, computed now, and all of the experiment once more where that is asked for."""
    st.subheader(t("experiments.live"), anchor=False)
    try:
        chosen.choice(bundle)
    except ValueError as error:
        reports.problem(error)
        return
    opened = components.open_bundle(bundle)
    if opened is None:
        return
    st.markdown(t("experiments.rule"))
    figure, again = st.container(), st.container()
    with again:
        st.subheader(t("experiments.again"), anchor=False)
        outcome = reports.run_again(chosen, *opened, report)
        if outcome is not None:
            reports.show_report(outcome.report, "own")
    with figure:
        outcome = outcome or reports.experiment_figure(chosen, *opened, report)
        if outcome is not None:
            reports.show_figure(outcome.figure, bundle, f"{chosen.name}_{bundle}")


chosen = choose()
bundle = choose_bundle(chosen)
if bundle is not None:
    show_live(chosen, bundle, show_kept(chosen, bundle))
routing.link("visualise", t("center.go_visualise"), **({"bundle": bundle} if bundle else {}))
