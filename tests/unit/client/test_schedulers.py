"""Names from schedulers' own variables: taken as they are, or said to be missing; never guessed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepcred
from stepcred import _schedulers, _settings

# As seen in logs and documentation of each.
AIRFLOW = {
    "AIRFLOW_CTX_DAG_OWNER": "data team",
    "AIRFLOW_CTX_DAG_ID": "nightly-etl",
    "AIRFLOW_CTX_TASK_ID": "load.orders",
    "AIRFLOW_CTX_DAG_RUN_ID": "scheduled__2026-11-28T01:00:00+00:00",
    "AIRFLOW_CTX_TRY_NUMBER": "2",
}
ARGO = {
    "ARGO_WORKFLOW_NAME": "nightly-etl-x7k2p",
    "ARGO_NODE_ID": "nightly-etl-x7k2p-3482304",
    "ARGO_TEMPLATE": json.dumps({"name": "load", "inputs": {}}),
}
GITHUB = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_WORKFLOW": "Nightly ETL (prod)",
    "GITHUB_WORKFLOW_REF": "acme/data/.github/workflows/nightly-etl.yml@refs/heads/feature/a@b",
    "GITHUB_RUN_ID": "1658821493",
    "GITHUB_RUN_ATTEMPT": "2",
    "GITHUB_JOB": "load",
    "GITHUB_ACTION": "__run_2",
}
GITLAB = {
    "GITLAB_CI": "true",
    "CI_PROJECT_NAME": "data",
    "CI_PIPELINE_ID": "8231",
    "CI_JOB_NAME": "load: orders 1/3",
    "CI_JOB_NAME_SLUG": "load-orders-1-3",
}


def name(environ: dict[str, str], **given: str) -> tuple[str, str, str]:
    asked = {key: given.get(key) for key in ("workflow", "run", "step")}
    found = _settings.step_name(workflow=asked["workflow"], run=asked["run"], step=asked["step"], environ=environ)
    return found.workflow, found.run, found.step


def problems(environ: dict[str, str], **given: str) -> list[str]:
    with pytest.raises(stepcred.SettingsError) as caught:
        name(environ, **given)
    return caught.value.problems


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (AIRFLOW, ("nightly-etl", "scheduled__2026-11-28T01:00:00+00:00", "load.orders")),
        (GITHUB, ("nightly-etl", "1658821493", "load")),
        (GITLAB, ("data", "8231", "load-orders-1-3")),
        ({**ARGO, "STEPCRED_WORKFLOW": "nightly-etl"}, ("nightly-etl", "nightly-etl-x7k2p", "load")),
    ],
)
def test_the_names_of_each(environ: dict[str, str], expected: tuple[str, str, str]) -> None:
    assert name(environ) == expected


def test_ours_and_arguments_win() -> None:
    environ = {**GITHUB, "STEPCRED_RUN": "7"}
    assert name(environ, step="other") == ("nightly-etl", "7", "other")


def test_with_all_three_given_no_scheduler_is_looked_at() -> None:
    assert name({**AIRFLOW, **GITHUB}, workflow="a", run="b", step="c") == ("a", "b", "c")


def test_half_of_one_says_what_is_missing() -> None:
    missing = problems({key: value for key, value in AIRFLOW.items() if key != "AIRFLOW_CTX_DAG_RUN_ID"})
    assert missing == [
        "run is not given: pass run= or --run, or set STEPCRED_RUN; Airflow's AIRFLOW_CTX_DAG_RUN_ID: has none",
    ]
    assert problems({"AIRFLOW_CTX_TASK_ID": "load"})[0].startswith("workflow is not given")
    assert len(problems({"GITHUB_ACTIONS": "true"})) == 3


def test_argo_does_not_name_the_workflow() -> None:
    (problem,) = problems(ARGO)
    assert "STEPCRED_WORKFLOW" in problem
    assert "workflows.argoproj.io/workflow-template" in problem


def test_argos_template_is_in_a_file_since_3_6(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_schedulers, "TEMPLATE_FILE", str(tmp_path / "template"))
    environ = {"ARGO_WORKFLOW_NAME": "nightly-etl-x7k2p"}
    assert any("step is not given" in problem for problem in problems(environ))
    (tmp_path / "template").write_text(json.dumps({"name": "load"}))
    assert name(environ, workflow="nightly-etl")[2] == "load"
    assert any("step" in problem for problem in problems({**environ, "ARGO_TEMPLATE": "offloaded"}, workflow="w"))
    assert any("step" in problem for problem in problems({**environ, "ARGO_TEMPLATE": "[]"}, workflow="w"))


@pytest.mark.parametrize("bad", ["Nightly ETL", "__run_2", "a/b", "a\nb", "é", "x" * 251, "-a", ""])
def test_what_cannot_be_a_name_is_not_folded_into_one(bad: str) -> None:
    (problem,) = problems({**AIRFLOW, "AIRFLOW_CTX_DAG_ID": bad})
    assert problem.startswith(
        "workflow is not given: pass workflow= or --workflow, or set STEPCRED_WORKFLOW; Airflow's"
    )
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("environ", "what"),
    [
        ({**ARGO, "STEPCRED_WORKFLOW": "w", "ARGO_TEMPLATE": "[" * 200_000}, "Argo's ARGO_TEMPLATE: has none"),
        (
            {**GITHUB, "GITHUB_WORKFLOW_REF": "acme/data/.github/workflows/nightly@x.yml@refs/heads/main"},
            "GitHub's GITHUB_WORKFLOW_REF: has none",
        ),
        ({**GITHUB, "GITHUB_WORKFLOW_REF": "nightly-etl"}, "GitHub's GITHUB_WORKFLOW_REF: has none"),
    ],
)
def test_hostile_values_are_no_names(environ: dict[str, str], what: str) -> None:
    (problem,) = problems(environ)
    assert problem.endswith(what)


def test_two_of_them_are_not_guessed_between() -> None:
    (problem,) = problems({**AIRFLOW, **GITHUB}, workflow="w", run="r")
    assert "Airflow and GitHub" in problem


def test_without_any_it_is_said_what_was_looked_for() -> None:
    missing = problems({})
    assert len(missing) == 3
    for title in ("STEPCRED_WORKFLOW", "Airflow", "Argo", "GitHub", "GitLab", "Tekton"):
        assert title in missing[0]


@given(st.dictionaries(st.sampled_from([*AIRFLOW, *ARGO, *GITHUB, *GITLAB]), st.text(max_size=30)))
def test_whatever_is_set_a_name_is_one_or_nothing(environ: dict[str, str]) -> None:
    try:
        found = name(environ)
    except stepcred.SettingsError:
        return
    assert all(_schedulers.NAME.fullmatch(part) for part in found)
