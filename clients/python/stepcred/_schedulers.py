"""Workflow, run and step from the variables that schedulers set themselves.

Names are taken as they are or not at all: what would have to be folded is an error, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

# As the broker takes them.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+@=-]{0,249}")
_WORKFLOW_FILE = re.compile(r"(?:.*/)?([^/]+)\.ya?ml", re.DOTALL)
TEMPLATE_FILE = "/var/run/argo/template"


@dataclass(frozen=True, kw_only=True, slots=True)
class Variable:
    """Where one of the three names comes from; `read` makes it of the value."""

    name: str
    read: Callable[[str], str] = str


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheduler:
    """`signs`: it is there when one of these variables is set. A name that it does not give is not in `variables`."""

    title: str
    signs: tuple[str, ...]
    variables: Mapping[str, Variable]
    hint: str = ""  # about what it does not give


def _workflow_file(ref: str) -> str:
    """Of "acme/data/.github/workflows/nightly.yml@refs/heads/main" it is "nightly"; the display name may be anything."""
    found = _WORKFLOW_FILE.fullmatch(ref.partition("@")[0])
    return found[1] if found else ""


def _template_name(template: str) -> str:
    """The template's name; its JSON is in the variable, or, since 3.6, in a file beside the main container."""
    import json

    try:
        found = json.loads(template or Path(TEMPLATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # "offloaded" is no JSON
        return ""
    name = found.get("name") if isinstance(found, dict) else None
    return name if isinstance(name, str) else ""


# airflow.apache.org, task-sdk's execution_time/context.py (AIRFLOW_VAR_NAME_FORMAT_MAPPING); the same in 2.x.
_AIRFLOW = Scheduler(
    title="Airflow",
    signs=("AIRFLOW_CTX_DAG_ID", "AIRFLOW_CTX_DAG_RUN_ID", "AIRFLOW_CTX_TASK_ID"),
    variables={
        "workflow": Variable(name="AIRFLOW_CTX_DAG_ID"),
        "run": Variable(name="AIRFLOW_CTX_DAG_RUN_ID"),
        "step": Variable(name="AIRFLOW_CTX_TASK_ID"),
    },
)
# argoproj/argo-workflows, workflow/common/common.go and workflow/controller/workflowpod.go. ARGO_NODE_ID is another one
# for each retry, so that no budget would hold: the template's name is taken.
_ARGO = Scheduler(
    title="Argo",
    signs=("ARGO_WORKFLOW_NAME",),
    variables={
        "run": Variable(name="ARGO_WORKFLOW_NAME"),
        "step": Variable(name="ARGO_TEMPLATE", read=_template_name),
    },
    hint="Argo names the run alone; give the workflow's name by the pod's label workflows.argoproj.io/workflow-template "
    "or workflows.argoproj.io/cron-workflow",
)
# docs.github.com/en/actions/reference/workflows-and-actions/variables. A re-run keeps GITHUB_RUN_ID: the next attempt.
_GITHUB = Scheduler(
    title="GitHub",
    signs=("GITHUB_ACTIONS",),
    variables={
        "workflow": Variable(name="GITHUB_WORKFLOW_REF", read=_workflow_file),
        "run": Variable(name="GITHUB_RUN_ID"),
        "step": Variable(name="GITHUB_JOB"),
    },
)
# docs.gitlab.com/ci/variables/predefined_variables. A retried job keeps its name: the next attempt.
_GITLAB = Scheduler(
    title="GitLab",
    signs=("GITLAB_CI",),
    variables={
        "workflow": Variable(name="CI_PROJECT_NAME"),
        "run": Variable(name="CI_PIPELINE_ID"),
        "step": Variable(name="CI_JOB_NAME_SLUG"),
    },
)
SCHEDULERS = (_AIRFLOW, _ARGO, _GITHUB, _GITLAB)
# tekton.dev/docs/pipelines/labels: it labels the pod, and sets no variable in a step.
_TEKTON = "Tekton sets none, see docs/sdk.md"


def find(missing: list[str], environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The names that are missing, as far as a scheduler gives them; and what is wrong, one sentence each."""
    present = [one for one in SCHEDULERS if any(environ.get(sign) for sign in one.signs)]
    if len(present) == 1:
        return _of(present[0], missing, environ)
    looked = _listed([one.title for one in present or SCHEDULERS])
    none = f"no variable of {looked} is set; {_TEKTON}"
    why = f"variables of {looked} are set, and either may be meant" if present else none
    return {}, [f"{name} is not given: {how(name)}; {why}" for name in missing]


def how(name: str) -> str:
    """To give it."""
    return f"pass {name}= or --{name}, or set STEPCRED_{name.upper()}"


def _of(scheduler: Scheduler, missing: list[str], environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    found, problems = {}, []
    for name in missing:
        variable = scheduler.variables.get(name)
        if variable is None:
            problems.append(f"{name} is not given: {how(name)}; {scheduler.hint}")
            continue
        value = variable.read(environ.get(variable.name, ""))
        if NAME.fullmatch(value):
            found[name] = value
        else:
            what = f"{value[:60]!a} cannot be a name" if value else "has none"
            problems.append(f"{name} is not given: {how(name)}; {scheduler.title}'s {variable.name}: {what}")
    return found, problems


def _listed(titles: list[str]) -> str:
    return ", ".join(titles[:-1]) + f" and {titles[-1]}"
