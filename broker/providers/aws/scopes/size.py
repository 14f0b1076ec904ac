"""How much of what STS takes a block uses, and what to shorten. Templates count with a value that is given.

AWS counts twice: 2,048 characters of session policies as they are, and a *packed size* of policies, their ARNs and
session tags together. How it packs is not published; what AssumeRole answers is a percentage. Reported were 82 % for 736
characters with 18 actions and 3 tags, 118 % for 31 actions, 157 % for 1,690 characters with 42 actions and 3 tags, 74 % for
6 tags of 300 characters. The estimate here is above each of them, and above what repeats itself, which packs well.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from os.path import commonprefix

from broker.model import JsonValue
from broker.providers.aws.scopes.block import AwsBlock
from broker.providers.aws.scopes.compile import POLICY_CHARACTERS, counted, spelled, unbounded_policy
from broker.providers.aws.scopes.texts import UNFILLED

SOME_BOUND = datetime(2000, 1, 1, tzinfo=UTC)  # all bounds have the same length

# Per cent of the packed size, by the reports above.
_PER_CHARACTER = 0.115  # of policy and ARNs as they are …
_PER_BYTE = 0.30  # … or deflated
_PER_TAG = 1.0
_PER_TAG_CHARACTER = 0.27

MANY = 3  # ARNs that begin alike, for which one with a wildcard may do
ALIKE = 20  # characters


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """Of what one AssumeRole sends.

    Attributes:
        characters: as AWS counts session policies.
        packed: per cent of the packed size, an estimate.
        part: the longest statement, or tag: its path in the block …
        longest: … and what it is, in words.
    """

    characters: int
    packed: int
    part: tuple[str | int, ...]
    longest: str

    @property
    def over(self) -> int:
        """Characters that are too many."""
        return max(0, self.characters - POLICY_CHARACTERS)


def measured(block: AwsBlock, value: str) -> Size:
    """With this value in every template."""
    policy = UNFILLED.sub(value, unbounded_policy(block, SOME_BOUND))
    tags = {key: len(UNFILLED.sub(value, text)) for key, text in block.session_tags.items()}
    tagged = sum(len(key) + length for key, length in tags.items())
    sent = policy + "".join(block.policy_arns)
    packed = min(_PER_CHARACTER * len(sent), _PER_BYTE * _deflated(sent))
    packed += _PER_TAG * len(tags) + _PER_TAG_CHARACTER * tagged
    lengths = [len(UNFILLED.sub(value, text)) for text in _texts(block)]
    part, longest = _longest(lengths, tags)
    return Size(characters=counted(policy, block.policy_arns), packed=round(packed), part=part, longest=longest)


def _longest(statements: list[int], tags: dict[str, int]) -> tuple[tuple[str | int, ...], str]:
    """A character of a tag takes more than twice the room of one of a policy."""
    most = max(statements, default=0)
    key = max(tags, key=lambda name: len(name) + tags[name], default="")
    if key and (len(key) + tags[key]) * _PER_TAG_CHARACTER > most * _PER_CHARACTER:
        return ("session_tags", key), f"tag {key} is the longest part, with up to {len(key) + tags[key]}"
    if not statements:
        return (), "the longest part is what stepcred adds"
    number = statements.index(most)
    return ("statements", number), f"statement {number + 1} is the longest, with about {most:,}"


def _deflated(text: str) -> int:
    made = zlib.compressobj(9, zlib.DEFLATED, -15)
    return len(made.compress(text.encode()) + made.flush())


def _texts(block: AwsBlock) -> list[str]:
    return [_text(spelled(statement)) for statement in block.statements]


def _text(value: JsonValue) -> str:
    return json.dumps(value, separators=(",", ":"))


def advice(block: AwsBlock) -> str:
    """What would make it shorter, the concrete first."""
    return "; ".join([*_merges(block), *_wildcards(block), *_sids(block), *_rest(block)])


def _merges(block: AwsBlock) -> Iterator[str]:
    """Statements that differ in one list only are one statement."""
    for but in ("Resource", "Action"):
        groups: dict[str, list[int]] = {}
        for number, one in enumerate(block.statements, 1):
            if getattr(one, but) is not None:
                groups.setdefault(_text(one.model_dump(exclude={but, "Sid"}, exclude_none=True)), []).append(number)
        for numbers in groups.values():
            if len(numbers) > 1:
                yield f"merge statements {', '.join(map(str, numbers))}, which differ in {but} only"


def _wildcards(block: AwsBlock) -> Iterator[str]:
    for number, one in enumerate(block.statements, 1):
        if one.Resource and len(one.Resource) >= MANY and len(start := commonprefix(one.Resource)) >= ALIKE:  # noqa: RUF071 - of texts, not of files
            yield f"statement {number}: {len(one.Resource)} ARNs begin with {start}, one with a wildcard may do"
        services = Counter(action.partition(":")[0] for action in one.Action or ())
        if one.Action and services and (most := services.most_common(1)[0])[1] > 2 * MANY:
            yield f"statement {number}: {most[1]} actions of {most[0]}, a pattern such as {most[0]}:Get* may do for some"


def _sids(block: AwsBlock) -> Iterator[str]:
    if saved := sum(len(f'"Sid":"{one.Sid}",') for one in block.statements if one.Sid):
        yield f"drop the Sids ({saved} characters)"


def _rest(block: AwsBlock) -> Iterator[str]:
    if block.session_tags:
        yield f"drop session tags ({len(block.session_tags)} of them), or shorten keys and values"
    if block.policy_arns:
        yield "let fewer policy_arns do"
    yield "let the role's own policy say it, and allow a pattern here"
