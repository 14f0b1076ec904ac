"""What is probably not meant in a good block: statements without edges, and a policy that might not fit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase

from broker.model import Remark
from broker.providers.aws.scopes.block import AwsBlock
from broker.providers.aws.scopes.compile import POLICY_CHARACTERS, too_long
from broker.providers.aws.scopes.mistakes import EXPECTED, Problem
from broker.providers.aws.scopes.probe_rights import probe_remarks
from broker.providers.aws.scopes.size import advice, measured
from broker.providers.aws.scopes.statement import Statement
from broker.providers.aws.scopes.tags import is_source_identity, is_value
from broker.providers.aws.scopes.texts import LONGEST, SHORTEST, UNFILLED

PACKED = 100  # per cent
# Everything of a service: arn:aws:s3:::* is as wide as *.
_WHOLE = re.compile(r"\*+|arn:[^:]*:[^:]*:[^:]*:[^:]*:[*]+")

# By how they are built: a list of them would be old in a year. Local zones are not regions.
_LIKELY_REGION = re.compile(
    r"[a-z]{2,4}(-(gov|iso[a-z]?|de))?-(central|(north|south)(east|west)?|east|west)-[0-9]{1,2}"
)

_REGION = "A session may call nothing outside its regions, so that a misspelt one leaves it nothing."
_ACTION = "Name the actions that the step needs: what is not named here stays with the role, out of the step's reach."
_RESOURCE = (
    "Name the ARNs that the step needs, with templates where they differ by workflow. "
    "For the few actions that AWS takes with * only (list-all calls), use a statement of their own with just those."
)
_NOT = "A Not… element allows everything else, also what AWS invents next year. Name what is allowed; deny the rest if needed."
_MANAGED = (
    "AWS joins all session policies of a session: an allow in one is enough, a deny in one denies. The denies that stepcred adds "
    "hold for all of them. Leave statements out if the managed policies say everything."
)
_TRANSITIVE = "Say may_chain: true if sessions are to be made from this one, or leave transitive_tags out."
_TAG = "STS takes 256 characters of a tag's value. Use fewer templates in it, or one tag for each."
_ENDS = (
    "Leave it to a role that no workflow has, or name resources that exclude this role and its users: a deny on the role is how "
    "a session is ended early, and nothing ends an access key."
)
_FITS = (
    f"AWS takes {POLICY_CHARACTERS:,} characters of session policies, and a packed size besides, of policies, their ARNs and "
    "session tags together, which is estimated here: how AWS packs is only known by trying, as check --live does. "
    "Merge statements, use one wildcard ARN for many, drop tags, or let the role's own policy say it."
)


# What lets a session undo its own end, or make credentials that outlive it. STS's own calls are denied.
_OUTLIVE = {
    **dict.fromkeys(("iam:PutRolePolicy", "iam:DeleteRolePolicy", "iam:DeleteRole"), "take a deny off its role"),
    **dict.fromkeys(
        (
            "iam:CreateAccessKey",
            "iam:CreateLoginProfile",
            "iam:UpdateLoginProfile",
            "iam:CreateServiceSpecificCredential",
        ),
        "make a login that outlives the session",
    ),
    "iam:UpdateAssumeRolePolicy": "let others assume its role",
}


def remarks(block: AwsBlock) -> Iterator[Remark]:
    """Every one."""
    for number, statement in enumerate(block.statements):
        if statement.Effect == "Allow":
            yield from _wide(statement, number)
            yield from _outliving(statement, number)
    yield from probe_remarks(block)
    yield from _regions(block)
    yield from _size(block)
    for key, value in block.session_tags.items():
        if not is_value(value, LONGEST):
            message = f"with values of 64 characters in its templates tag {key} has more than STS takes: a mint with them fails"
            yield Remark(path=("session_tags", key), rule="tag-size", message=message, help=_TAG)
    if block.policy_arns:
        message = "what these policies allow is added to what statements allow"
        yield Remark(path=("policy_arns",), rule="managed-policies", message=message, help=_MANAGED, note=True)
    if block.transitive and not block.may_chain:
        message = "no session is made from this one, so no tag goes on"
        yield Remark(path=("transitive_tags",), rule="idle-transitive-tags", message=message, help=_TRANSITIVE)


def never_fits(block: AwsBlock) -> Iterator[Problem]:
    """What STS takes with no value in the templates, however short."""
    size = measured(block, SHORTEST)
    if size.over:
        yield size.part, f"{too_long(size.characters)}; {size.longest}: {advice(block)}"
    for key, value in block.session_tags.items():
        if not is_value(value, SHORTEST):
            yield ("session_tags", key), EXPECTED["session_tags"]
    said = block.source_identity
    if said is not None and not UNFILLED.search(said) and not is_source_identity(said):
        yield ("source_identity",), EXPECTED["source_identity"]


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


def _outliving(statement: Statement, number: int) -> Iterator[Remark]:
    """Patterns that are wider than `Service:*` are told as such."""
    for action in statement.Action or ():
        if not set(action.rpartition(":")[2]) - {"*"}:
            continue
        able: dict[str, str] = {}
        for name, what in _OUTLIVE.items():
            if fnmatchcase(name.lower(), action.lower()):
                able.setdefault(what, name)
        for what, name in able.items():
            message = f"allows {name}: it may {what}"
            yield Remark(path=("statements", number, "Action"), rule="outlives-its-end", message=message, help=_ENDS)


def _regions(block: AwsBlock) -> Iterator[Remark]:
    """AWS's alone: other stores name theirs as they like."""
    if not block.account or block.sts_endpoint or block.endpoint_url:
        return
    for number, region in enumerate(block.regions):
        if not _LIKELY_REGION.fullmatch(region):
            message = f"{region} is not named as AWS names its regions"
            yield Remark(path=("regions", number), rule="odd-region", message=message, help=_REGION)


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
