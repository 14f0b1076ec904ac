"""What is probably not meant in a good block: statements without edges, and a policy that might not fit."""

from __future__ import annotations

import re
from collections.abc import Iterator

from broker.model import Remark
from broker.providers.aws.block import AwsBlock
from broker.providers.aws.compile import POLICY_CHARACTERS, too_long
from broker.providers.aws.size import LONGEST, SHORTEST, advice, measured
from broker.providers.aws.statement import Statement

PACKED = 100  # per cent
# Everything of a service: arn:aws:s3:::* is as wide as *.
_WHOLE = re.compile(r"\*+|arn:[^:]*:[^:]*:[^:]*:[^:]*:[*]+")

_ACTION = "Name the actions that the step needs: what is not named here stays with the role, out of the step's reach."
_RESOURCE = (
    "Name the ARNs that the step needs, with templates where they differ by workflow. "
    "For the few actions that AWS takes with * only (list-all calls), use a statement of their own with just those."
)
_NOT = "A Not… element allows everything else, also what AWS invents next year. Name what is allowed; deny the rest if needed."
_FITS = (
    f"AWS takes {POLICY_CHARACTERS:,} characters of session policies, and a packed size besides, of policies, their ARNs and "
    "session tags together, which is estimated here: how AWS packs is only known by trying, as check --live does. "
    "Merge statements, use one wildcard ARN for many, drop tags, or let the role's own policy say it."
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
    size = measured(block, LONGEST)
    filled = "with values of 64 characters in its templates " if size != measured(block, SHORTEST) else ""
    if size.over:
        message = f"{filled}{too_long(size.characters)}, and a mint with them fails; {size.longest}: {advice(block)}"
        yield Remark(path=size.part, rule="policy-size", message=message, help=_FITS)
    elif size.packed > PACKED:
        message = (
            f"{filled}policy, ARNs and tags may take {size.packed} % of the packed size (an estimate); "
            f"{size.longest}: {advice(block)}"
        )
        yield Remark(path=size.part, rule="packed-size", message=message, help=_FITS)
