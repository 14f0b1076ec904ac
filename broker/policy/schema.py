"""The scope map's shape: one strict model per kind of entry, and pydantic's complaints in our words.

Each entry is validated alone, so that one mistake does not hide the others. No unions: they report a
mistake once per member.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, time, timedelta, tzinfo
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from broker.model import MIN_LEASE_LIFE, NAME, JsonValue, Revocability, Tier
from broker.policy.decision import Concurrent
from broker.policy.document import Document, Path
from broker.policy.durations import format_duration, parse_duration, parse_instant, parse_time
from broker.policy.patterns import TRUST_DOMAIN
from broker.policy.problems import Problem, did_you_mean, named
from broker.policy.windows import zone

ANY = "*"
LONGEST_TTL = timedelta(hours=24)
LONGEST_SPAN = timedelta(days=30)
M = TypeVar("M", bound=BaseModel)


def _choice(kind: type[Any], what: str) -> BeforeValidator:
    values = [member.value for member in kind]

    def read(value: object) -> Any:
        if value in values:
            return kind(value)
        hint = did_you_mean(value, values) if isinstance(value, str) else ""
        raise ValueError(f"{what} is one of {', '.join(values)}{hint}")

    return BeforeValidator(read)


def _names(values: list[str]) -> list[str]:
    for value in values:
        if not NAME.fullmatch(value):
            raise ValueError("not a name: letters, digits and . _ : + @ = -, at most 250")
    return values


def _unique(values: list[str]) -> list[str]:
    if not values:
        raise ValueError("an empty list never allows anything; name at least one")
    if len(set(values)) != len(values):
        raise ValueError("an entry is listed twice")
    return values


def _workflows(values: list[str]) -> list[str]:
    if ANY in values:
        if len(values) > 1:
            raise ValueError('"*" means any workflow; it stands alone')
        return values
    return _names(values)


def _digests(values: list[str]) -> list[str]:
    for value in values:
        kind, _, digits = value.partition(":")
        if kind != "sha256" or len(digits) != 64 or not set(digits) <= set("0123456789abcdef"):  # noqa: PLR2004  # SHA-256
            raise ValueError("a digest is sha256: and 64 lower-case hexadecimal digits")
    return values


def _span(longest: timedelta) -> AfterValidator:
    def bounded(span: timedelta) -> timedelta:
        if span < MIN_LEASE_LIFE:
            raise ValueError("shorter than 60s, the shortest life of a lease")
        if span > longest:
            raise ValueError(f"longer than {format_duration(longest)}")
        return span

    return AfterValidator(bounded)


def _zone(value: object) -> tzinfo:
    return zone(value if isinstance(value, str) else "")


Names = Annotated[list[str], AfterValidator(_unique), AfterValidator(_names)]
Optionals = Annotated[list[str], AfterValidator(_names)]
Workflows = Annotated[list[str], AfterValidator(_unique), AfterValidator(_workflows)]
Digests = Annotated[list[str], AfterValidator(_unique), AfterValidator(_digests)]
Ttl = Annotated[timedelta, BeforeValidator(parse_duration), _span(LONGEST_TTL)]
LongSpan = Annotated[timedelta, BeforeValidator(parse_duration), _span(LONGEST_SPAN)]
Instant = Annotated[datetime, BeforeValidator(parse_instant)]
TimeOfDay = Annotated[time, BeforeValidator(parse_time)]
Zone = Annotated[tzinfo, BeforeValidator(_zone)]
TierName = Annotated[Tier, _choice(Tier, "a tier")]


class Strict(BaseModel):
    """Nothing is converted, nothing unknown is kept."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, arbitrary_types_allowed=True)


def _version(value: int) -> int:
    if value != 1:
        raise ValueError("this broker reads version 1")
    return value


def _domain(value: str) -> str:
    if not TRUST_DOMAIN.fullmatch(value):
        raise ValueError("a trust domain is lower-case letters, digits and . _ -")
    return value


def _environment(value: str) -> str:
    return _names([value])[0]


class Head(Strict):
    """The file as a whole; entries are looked at one by one."""

    version: Annotated[int, AfterValidator(_version)]
    environment: Annotated[str, AfterValidator(_environment)]
    trust_domain: Annotated[str, AfterValidator(_domain)]
    workloads: dict[str, Any] = {}
    scopes: dict[str, Any] = {}
    grants: dict[str, Any] = {}
    denies: dict[str, Any] = {}
    never: dict[str, Any] = {}
    tiers: dict[str, Any] = {}
    tests: list[Any] = []


SECTIONS = ("workloads", "scopes", "grants", "denies", "never", "tiers")


def lenient_head(data: JsonValue) -> Head:
    """What can be read of a file whose head has mistakes, so that those of its entries are reported as well."""
    found = data if isinstance(data, dict) else {}
    sections = {name: found[name] if isinstance(found.get(name), dict) else {} for name in SECTIONS}
    tests = found["tests"] if isinstance(found.get("tests"), list) else []
    domain = found.get("trust_domain")
    known = domain if isinstance(domain, str) and TRUST_DOMAIN.fullmatch(domain) else ""
    return Head.model_construct(version=1, environment="", trust_domain=known, tests=tests, **sections)


class WorkloadEntry(Strict):
    """A named certificate pattern."""

    id: str
    owners: Optionals = []
    description: str = ""


class ScopeEntry(Strict):
    """Everything of a scope but its provider's block."""

    ttl: Ttl = timedelta(minutes=15)
    max_ttl: LongSpan | None = None
    tier: TierName  # no default: whoever declares a scope says how dangerous it is
    residency: Optionals = []
    description: str = ""


class DailyEntry(Strict):
    """A window of the day."""

    start: Annotated[TimeOfDay, Field(alias="from")]
    end: Annotated[TimeOfDay, Field(alias="to")]
    tz: Zone


class WhenEntry(Strict):
    """Conditions of time."""

    until: Instant | None = None
    daily: DailyEntry | None = None


class GrantEntry(Strict):
    """Which workloads may have which scopes, under which conditions."""

    workloads: Names
    workflows: Workflows
    scopes: Names
    definition_digest: Digests | None = None
    max_step: LongSpan = timedelta(hours=24)
    concurrent: Annotated[Concurrent, _choice(Concurrent, "concurrent")] = Concurrent.REFUSE
    when: WhenEntry = WhenEntry()
    description: str = ""


class DenyEntry(Strict):
    """What is refused whatever the grants say. A selector left out selects everything."""

    workloads: Names | None = None
    workflows: Workflows | None = None
    scopes: Names | None = None
    definition_digest: Digests | None = None
    when: WhenEntry = WhenEntry()
    description: str = ""


class NeverEntry(Strict):
    """What no grant may ever give."""

    agents: str
    tier: TierName | None = None
    scopes: Names | None = None
    description: str = ""


def _some(values: list[Revocability]) -> list[Revocability]:
    if not values:
        raise ValueError("an empty list takes nothing; name at least one")
    return values


class TierEntry(Strict):
    """How dead the scopes of a tier must be able to be made."""

    revocability: Annotated[list[Annotated[Revocability, _choice(Revocability, "revocability")]], AfterValidator(_some)]


def _expected(value: object) -> bool:
    if value not in ("allow", "deny"):
        raise ValueError("expect is allow or deny")
    return value == "allow"


class Expectation(Strict):
    """One entry of `tests:`."""

    agent: Annotated[str, Field(alias="as")]
    ask: str
    expect: Annotated[bool, BeforeValidator(_expected)]
    at: Instant | None = None
    workflow: str | None = None
    run: str | None = None
    step: str | None = None
    proven: bool = False
    definition_digest: str = ""
    reason: str | None = None


def read_entry(
    kind: type[M], data: JsonValue, path: Path, document: Document, problems: list[Problem], *, also: Iterable[str] = ()
) -> M | None:
    """Validate one entry; complaints go to `problems`. `also`: further keys to suggest for a misspelt one."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        for mistake in error.errors(include_url=False):
            where: Path = tuple(mistake["loc"])
            message = _words(mistake, kind, where, also)
            problems.append(document.problem(path + where, message, key=mistake["type"] == "extra_forbidden"))
        return None


_EXPECTED = {
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "int_type": "a whole number",
    "bool_type": "true or false",
}
_FOUND = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "a mapping"}


def _words(mistake: Mapping[str, Any], kind: type[BaseModel], where: Path, also: Iterable[str]) -> str:
    if mistake["type"] == "extra_forbidden":
        known = [*_keys(kind, where[:-1]), *(also if len(where) == 1 else ())]
        return f"unknown key{named(str(where[-1]))}{did_you_mean(str(where[-1]), known)}"
    if mistake["type"] == "missing":
        hint = '; write ["*"] for any workflow' if where[-1] == "workflows" else ""
        return f"{where[-1]!r} is missing{hint}"
    if mistake["type"] == "value_error":
        return str(mistake["ctx"]["error"])
    if mistake["type"] in _EXPECTED:
        found = _FOUND.get(type(mistake["input"]), "nothing")
        in_quotes = "; put it in quotes" if mistake["type"] == "string_type" and "number" in found else ""
        return f"expected {_EXPECTED[mistake['type']]}, found {found}{in_quotes}"
    return "not understood"


def _keys(kind: type[BaseModel], where: Path) -> list[str]:
    """The keys that an entry knows at this place."""
    for name in where:
        fields = {field.alias or key: field for key, field in kind.model_fields.items()}
        inside = fields[str(name)].annotation if str(name) in fields else None
        models = [one for one in (inside, *get_args(inside)) if isinstance(one, type) and issubclass(one, BaseModel)]
        if not models:
            return []
        kind = models[0]
    return [field.alias or key for key, field in kind.model_fields.items()]
