"""What is probably not meant in a good block: statements without edges, and a policy that might not fit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime

from broker.model import Remark
from broker.providers.aws.block import AwsBlock, Statement
from broker.providers.aws.compile import POLICY_CHARACTERS, unbounded_policy

LONGEST_VALUE = "x" * 64  # of a template, DESIGN section 8
NEARLY_FULL = (
    POLICY_CHARACTERS * 9 // 10
)  # above it the packed size becomes the likely limit; AWS does not say how it packs
SOME_BOUND = datetime(2000, 1, 1, tzinfo=UTC)  # all bounds have the same length
TEMPLATE = re.compile(r"(?<!\$)\{[A-Za-z_][A-Za-z0-9_]*\}")
# Everything of a service: arn:aws:s3:::* is as wide as *.
_WHOLE = re.compile(r"\*+|arn:[^:]*:[^:]*:[^:]*:[^:]*:[*]+")

_ACTION = "Name the actions that the step needs: what is not named here stays with the role, out of the step's reach."
_RESOURCE = (
    "Name the ARNs that the step needs, with templates where they differ by workflow. "
    "For the few actions that AWS takes with * only (list-all calls), use a statement of their own with just those."
)
_NOT = "A Not… element allows everything else, also what AWS invents next year. Name what is allowed; deny the rest if needed."
_FITS = (
    f"AWS takes {POLICY_CHARACTERS:,} characters of session policy, and a packed size besides that is only known by trying. "
    "Shorten or merge statements, use one wildcard ARN for many, or let the role's own policy say it."
)


def remarks(block: AwsBlock) -> Iterator[Remark]:
    """Every one."""
    for number, statement in enumerate(block.statements):
        if statement.Effect == "Allow":
            yield from _wide(statement, number)
    yield from _size(block)


def _wide(statement: Statement, number: int) -> Iterator[Remark]:
    for action in statement.Action or ():
        service, _, name = action.rpartition(":")
        if not set(name) - {"*"}:
            of = f" of {service}" if service else ""
            message = f"allows every action{of}"
            yield Remark(path=("statements", number, "Action"), rule="any-action", message=message, help=_ACTION)
    for resource in statement.Resource or ():
        if _WHOLE.fullmatch(resource):
            message = f"allows it on {'everything' if resource.startswith('*') else resource}"
            yield Remark(path=("statements", number, "Resource"), rule="any-resource", message=message, help=_RESOURCE)
    if statement.NotAction:
        message = f"allows every action but {', '.join(statement.NotAction)}"
        yield Remark(path=("statements", number, "NotAction"), rule="not-action", message=message, help=_NOT)
    if statement.NotResource:
        message = f"allows it everywhere but on {', '.join(statement.NotResource)}"
        yield Remark(path=("statements", number, "NotResource"), rule="not-resource", message=message, help=_NOT)


def _size(block: AwsBlock) -> Iterator[Remark]:
    """By the compiled policy with every template at its longest."""
    size = len(TEMPLATE.sub(LONGEST_VALUE, unbounded_policy(block, SOME_BOUND)))
    sizes = [len(json.dumps(one.model_dump(exclude_none=True), separators=(",", ":"))) for one in block.statements]
    longest = sizes.index(max(sizes))
    path = ("statements", longest)
    where = f"statement {longest + 1} is the longest, with about {max(sizes)}"
    if size > POLICY_CHARACTERS:
        message = (
            f"with values of 64 characters in its templates the session policy has {size:,} characters, "
            f"AWS takes {POLICY_CHARACTERS:,}: a mint with long values fails; {where}"
        )
        yield Remark(path=path, rule="policy-size", message=message, help=_FITS)
    elif size > NEARLY_FULL:
        message = f"the session policy can have {size:,} of {POLICY_CHARACTERS:,} characters: its packed size may be too much; {where}"
        yield Remark(path=path, rule="packed-size", message=message, help=_FITS)
