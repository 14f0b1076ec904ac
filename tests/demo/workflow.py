"""The three steps of `nightly-etl`, each a process of its own with a certificate of its own."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from textwrap import dedent
from typing import Any

from botocore.exceptions import ClientError
from ruamel.yaml import YAML

from tests.demo.commands import Ran, run
from tests.demo.site import BUCKET, Site, spiffe_id, step_program
from tests.demo.stage import Stage

OBJECT = "nightly-etl/orders.csv"


def extract(stage: Stage) -> None:
    """A program that knows nothing of stepcred."""
    screen = stage.screen
    screen.chapter("extract: a secret, with a Vault token", spiffe_id("extract"))
    argv = ["stepcred", "exec", "--scope", "orders-read", "--", *step_program("extract")]
    played = stage.play("extract", "stepcred exec --scope orders-read -- python extract.py", argv)
    screen.check("the step did its work", played.ran.code == 0, seconds=played.ran.seconds, seen=played.ran.last)
    stage.journal_says("extract", rule="nightly-extract")
    stage.tokens_dead(played, "secret/data/orders")


def load(stage: Stage) -> None:
    """The SDK, and what can and cannot be said of an AWS session."""
    screen = stage.screen
    screen.chapter("load: an object, with an AWS session", spiffe_id("load"))
    played = stage.play("load", "python load.py", step_program("load"))
    there = played.ran.code == 0 and _object_is_there(stage)
    screen.check("the object is in its bucket", there, seconds=played.ran.seconds, seen=played.ran.last)
    stage.session_dead(played)
    lease_id = str(played.copy.get("lease_id"))
    denied = _denied_sessions(stage)
    screen.check(
        f"the broker's deny on the role names this session: aws:userid *:{lease_id}",
        denied == [f"*:{lease_id}"],
        seen=denied,
    )
    found = stage.leases("load")
    states = [(one.rule.partition(" ")[0], one.state) for one in found]
    text = f"journal: {found[0] if found else 'no lease'}, as a deny is no evidence"
    screen.check(text, states == [("nightly-load", "REVOKING")], seen=states)
    screen.note(
        "Shown: the deny is written, and the session is refused by it. Not shown: that it spares other",
        "sessions, and the limits to lake/nightly-etl/* and in time; moto ignores conditions and session",
        "policies, so the role has one session here. AWS itself takes seconds to minutes to obey a deny.",
    )


def report(stage: Stage) -> str:
    """A refusal, and what each side learns of it. Returns the reference that the agent was told."""
    screen = stage.screen
    screen.chapter("report: asks for what it was not granted", spiffe_id("report"))
    played = stage.play("report", "python report.py", step_program("report"))
    reason = played.copy.get("reason")
    refused = "lake-write is refused; the agent learns a reference and no more"
    screen.check(refused, reason == "ACCESS_DENIED", seconds=played.ran.seconds, seen=reason or played.ran.last)
    reference = str(played.copy.get("reference", "none"))
    _explain(stage, reference)
    stage.journal_says("report", rule="nightly-report")
    stage.tokens_dead(played, "secret/data/prices")
    return reference


def _explain(stage: Stage, reference: str) -> None:
    screen, site = stage.screen, stage.site
    screen.command(f"stepcred-broker scopes explain --denial {reference} --database broker.db --map scopes.yaml")
    asked: list[str | Path] = [
        "scopes",
        "explain",
        "--denial",
        reference,
        "--database",
        site.database,
        "--map",
        site.scope_map,
    ]
    told = run("stepcred-broker", *asked)
    verdict = next((n for n, line in enumerate(told.lines) if line.startswith("  DENIED")), 0)
    screen.output(line.replace(f"{site.folder}/", "") for line in told.lines[verdict:])
    named = any("rule: nightly-report" in line for line in told.lines[verdict:])
    screen.check("explain names the rule and the smallest change", named, seconds=told.seconds, seen=told.last)
    again = _with_the_change(site, _smallest_change(told.lines))
    allowed = again.code == 0 and any("ALLOWED by nightly-report" in line for line in again.lines)
    screen.check("that change made in a copy of the map: ALLOWED", allowed, seconds=again.seconds, seen=again.last)


def _smallest_change(told: list[str]) -> str:
    """What a person would copy: the block below the words."""
    start = next(
        (n for n, line in enumerate(told, 1) if line.endswith("smallest change that would allow it:")), len(told)
    )
    return dedent("\n".join(takewhile(lambda line: line.startswith(" " * 6), told[start:])))


def _with_the_change(site: Site, change: str) -> Ran:
    """Make it in a copy of the map, and ask again."""
    yaml, copy = YAML(typ="safe"), site.folder / "changed.yaml"
    changed = _merged(yaml.load(site.scope_map.read_text()), yaml.load(change) or {})
    with copy.open("w") as file:
        yaml.dump({**changed, "tests": []}, file)  # one of them says that this must stay refused
    return run("stepcred-broker", "scopes", "explain", spiffe_id("report"), "lake-write", "--map", copy)


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(new, dict):
        return new
    known = old if isinstance(old, dict) else {}
    return {**known, **{key: _merged(known.get(key), value) for key, value in new.items()}}


def _object_is_there(stage: Stage) -> bool:
    try:
        stage.moto.client("s3").head_object(Bucket=BUCKET, Key=OBJECT)
    except ClientError:
        return False
    return True


def _denied_sessions(stage: Stage) -> list[str]:
    """Which sessions the broker's policies on the role deny."""
    iam, role = stage.moto.client("iam"), "nightly-etl-load"
    names = [name for name in iam.list_role_policies(RoleName=role)["PolicyNames"] if name.startswith("stepcred-deny-")]
    policies = [iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"] for name in names]
    return [who for policy in policies for who in policy["Statement"][0]["Condition"]["StringLike"]["aws:userid"]]
