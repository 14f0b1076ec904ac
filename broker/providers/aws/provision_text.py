"""A plan for AWS as commands, as JSON, as Terraform.

Whatever comes from a map is quoted, and holds printable ASCII only; nothing of it becomes a command of its own.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping

from broker.providers.aws.provision import PERMISSIONS, Document, Plan, Policy, Role, text

SHOWN_AS = ("sh", "json", "terraform")


def show(plan: Plan, form: str) -> str:
    """The plan as a text that ends with a newline. `form`: of SHOWN_AS."""
    forms: Mapping[str, Callable[[Plan], Iterator[str]]] = {"sh": _sh, "json": _json, "terraform": _terraform}
    return "\n".join(forms[form](plan)) + "\n"


def _json(plan: Plan) -> Iterator[str]:
    yield json.dumps(
        {
            "broker": {"arn": plan.broker_arn, "policy": _policy(plan.broker)},
            "roles": [_role(role) for role in plan.roles],
            "hints": list(plan.hints),
        },
        indent=2,
    )


def _role(role: Role) -> Document:
    return {
        "arn": role.arn,
        "name": role.name,
        "path": role.path,
        "max_session_seconds": role.longest,
        "trust": role.trust,
        "boundary": _policy(role.boundary) if role.boundary else None,
        "policy": {"name": PERMISSIONS, "document": role.permissions},
    }


def _policy(policy: Policy) -> Document:
    return {"arn": policy.arn, "name": policy.name, "document": policy.document}


def _sh(plan: Plan) -> Iterator[str]:
    yield from (f"# {hint}" for hint in plan.hints)
    yield "set -eu"
    yield f"# in account {_account(plan.broker_arn)}, where {plan.broker_arn} is already"
    yield from _create(plan.broker)
    kind = "user" if ":user/" in plan.broker_arn else "role"
    name = plan.broker_arn.rpartition("/")[2]
    yield _aws(f"attach-{kind}-policy", **{f"{kind}-name": name, "policy-arn": plan.broker.arn})
    for role in plan.roles:
        yield f"\n# in account {_account(role.arn)}"
        yield from _create(role.boundary) if role.boundary else ()
        bounded = {"permissions-boundary": role.boundary.arn} if role.boundary else {}
        yield _aws(
            "create-role",
            **{"role-name": role.name, "path": role.path, "max-session-duration": str(role.longest), **bounded},
            **{"assume-role-policy-document": text(role.trust)},
        )
        named = {"role-name": role.name, "policy-name": PERMISSIONS}
        yield _aws("put-role-policy", **named, **{"policy-document": text(role.permissions)})


def _create(policy: Policy) -> Iterator[str]:
    yield _aws("create-policy", **{"policy-name": policy.name, "policy-document": text(policy.document)})


def _aws(command: str, **options: str) -> str:
    given = " ".join(f"--{name} {shlex.quote(value)}" for name, value in options.items())
    quiet = " >/dev/null" if command.startswith("create-") else ""
    return f"aws iam {command} {given}{quiet}"


def _account(arn: str) -> str:
    return arn.split(":")[4]


def _terraform(plan: Plan) -> Iterator[str]:
    """For one account; roles of others need a provider of theirs."""
    yield from (f"# {hint}" for hint in plan.hints)
    yield from _resource("aws_iam_policy", plan.broker.name, name=plan.broker.name, policy=plan.broker.document)
    kind = "user" if ":user/" in plan.broker_arn else "role"
    name = plan.broker_arn.rpartition("/")[2]
    made = f"aws_iam_policy.{_label(plan.broker.name)}.arn"
    yield from _resource(f"aws_iam_{kind}_policy_attachment", name, **{kind: name}, policy_arn=_Reference(made))
    for role in plan.roles:
        bounded: dict[str, object] = {}
        if (boundary := role.boundary) is not None:
            yield from _resource("aws_iam_policy", boundary.name, name=boundary.name, policy=boundary.document)
            bounded["permissions_boundary"] = _Reference(f"aws_iam_policy.{_label(boundary.name)}.arn")
        yield from _resource(
            "aws_iam_role",
            role.name,
            name=role.name,
            path=role.path,
            max_session_duration=role.longest,
            **bounded,
            assume_role_policy=role.trust,
        )
        given = _Reference(f"aws_iam_role.{_label(role.name)}.name")
        yield from _resource("aws_iam_role_policy", role.name, name=PERMISSIONS, role=given, policy=role.permissions)


class _Reference(str):
    """To another resource: printed as it is."""

    __slots__ = ()


def _resource(kind: str, called: str, /, **arguments: object) -> Iterator[str]:
    yield f'resource "{kind}" "{_label(called)}" {{'
    for key, value in arguments.items():
        yield f"  {key} = {_value(value)}"
    yield "}\n"


def _value(value: object) -> str:
    if isinstance(value, _Reference):
        return value
    if isinstance(value, dict):
        return f"jsonencode({_literal(json.dumps(value, indent=2))})".replace("\n", "\n  ")
    return str(value) if isinstance(value, int) else _literal(json.dumps(value))


def _literal(written: str) -> str:
    """JSON is an HCL expression, once what HCL would fill in is kept from it: AWS has ${…} of its own."""
    return written.replace("${", "$${").replace("%{", "%%{")


def _label(name: str) -> str:
    """A Terraform name. Two of the same kind never share one: what is replaced is spelled out."""
    plain = re.sub(r"[^A-Za-z0-9-]", lambda odd: f"_{ord(odd[0]):x}_" if odd[0] != "_" else "__", name)
    return plain if plain[0].isalpha() else f"_{plain}"
