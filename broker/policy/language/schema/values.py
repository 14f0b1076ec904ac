"""Single values of a scope map: how each is read, and how a JSON Schema describes it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time, timedelta, tzinfo
from enum import Enum
from ipaddress import IPv6Network, ip_network
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, GetCoreSchemaHandler, GetJsonSchemaHandler, WithJsonSchema
from pydantic_core import CoreSchema, core_schema

from broker.model import DEFINITION_DIGEST, MIN_LEASE_LIFE, NAME, Bind, OnLock, Revocability, Tier
from broker.policy.decision import Concurrent, Denial, Signers
from broker.policy.durations import format_duration, parse_duration, parse_instant, parse_time
from broker.policy.patterns import TRUST_DOMAIN
from broker.policy.problems import did_you_mean
from broker.policy.windows import WEEK, Network, zone

ANY = "*"
LONGEST_TTL = timedelta(hours=24)
LONGEST_SPAN = timedelta(days=30)
MOST_NETWORKS = 64
_MAPPED = IPv6Network("::ffff:0:0/96")
MOST_ATTEMPTS = 1000
MOST_APPROVALS = 5
MOST_BUDGET = 1000
MOST_HOURLY = 100_000
MOST_FACTOR = 100
_NAME_SCHEMA = {"type": "string", "pattern": f"^{NAME.pattern}$"}


@dataclass(frozen=True, slots=True)
class Choice:
    """One of an Enum's values, as text."""

    kind: type[Enum]
    what: str

    def read(self, value: object) -> Enum:
        """Raises ValueError."""
        if value in self.values:
            return self.kind(value)
        hint = did_you_mean(value, self.values) if isinstance(value, str) else ""
        raise ValueError(f"{self.what} is one of {', '.join(self.values)}{hint}")

    @property
    def values(self) -> list[str]:
        """As they are written."""
        return [str(member.value) for member in self.kind]

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": self.values}


def check_names(values: list[str]) -> list[str]:
    """Every one is a name. Raises ValueError."""
    for value in values:
        if not NAME.fullmatch(value):
            raise ValueError("not a name: letters, digits and . _ : + @ = -, at most 250")
    return values


def _name(value: str) -> str:
    return check_names([value])[0]


def _unique(values: list[Any]) -> list[Any]:
    if not values:
        raise ValueError("an empty list never allows anything; name at least one")
    if len(set(values)) != len(values):
        raise ValueError("an entry is listed twice")
    return values


def _distinct(values: list[Any]) -> list[Any]:
    """May be empty, where a list only adds."""
    return _unique(values) if values else values


def _some(values: list[Any]) -> list[Any]:
    if not values:
        raise ValueError("an empty list takes nothing; name at least one")
    return values


def _workflows(values: list[str]) -> list[str]:
    if ANY in values:
        if len(values) > 1:
            raise ValueError('"*" means any workflow; it stands alone')
        return values
    return check_names(values)


def check_digest(value: str) -> str:
    """SHA-256 as text. Raises ValueError."""
    if not DEFINITION_DIGEST.fullmatch(value):
        raise ValueError("a digest is sha256: and 64 lower-case hexadecimal digits")
    return value


def _digests(values: list[str]) -> list[str]:
    return [check_digest(value) for value in values]


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


def _day(value: object) -> int:
    if value in WEEK:
        return WEEK.index(str(value))
    hint = did_you_mean(value, WEEK) if isinstance(value, str) else ""
    raise ValueError(f"a day is one of {', '.join(WEEK)}{hint}")


def _network(value: object) -> Network:
    try:
        found = ip_network(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError("expected a network such as 10.0.0.0/8 or 2001:db8::/32, without host bits") from None
    if isinstance(found, IPv6Network) and found.subnet_of(_MAPPED):  # no call comes from one: they are read as IPv4
        raise ValueError("an IPv4 network in IPv6 spelling; write it as 10.0.0.0/8")
    return found


def _few(values: list[Network]) -> list[Network]:
    if len(values) > MOST_NETWORKS:
        raise ValueError(f"more than {MOST_NETWORKS} networks")
    return values


def _between(least: int, most: int) -> AfterValidator:
    def bounded(value: int) -> int:
        if not least <= value <= most:
            raise ValueError(f"between {least} and {most}")
        return value

    return AfterValidator(bounded)


def _count_schema(most: int) -> WithJsonSchema:
    return WithJsonSchema({"type": "integer", "minimum": 1, "maximum": most})


def _guard_span(span: timedelta) -> timedelta:
    if span > LONGEST_SPAN:
        raise ValueError(f"longer than {format_duration(LONGEST_SPAN)}")
    return span


def _version(value: int) -> int:
    if value != 1:
        raise ValueError("this broker reads version 1")
    return value


def _domain(value: str) -> str:
    if not TRUST_DOMAIN.fullmatch(value):
        raise ValueError("a trust domain is lower-case letters, digits and . _ -")
    return value


_SPAN_SCHEMA = WithJsonSchema(
    {"type": "string", "pattern": "^[1-9][0-9]{0,6}[smhd]$", "examples": ["90s", "10m", "1h"]}
)
_INSTANT_SCHEMA = WithJsonSchema({"type": "string", "examples": ["2027-01-01", "2027-01-01T12:00Z"]})
_TIME_SCHEMA = WithJsonSchema({"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$"})
_NAMES_SCHEMA = WithJsonSchema({"type": "array", "items": _NAME_SCHEMA, "minItems": 1, "uniqueItems": True})
_OPTIONALS_SCHEMA = WithJsonSchema({"type": "array", "items": _NAME_SCHEMA})
_WORKFLOWS_SCHEMA = WithJsonSchema(
    {
        "anyOf": [{"const": [ANY]}, {"type": "array", "items": _NAME_SCHEMA, "minItems": 1, "uniqueItems": True}],
        "description": 'Names, or ["*"] alone for any.',
    }
)
_DIGEST_SCHEMA = {"type": "string", "pattern": f"^{DEFINITION_DIGEST.pattern}$"}

Name = Annotated[str, AfterValidator(_name), WithJsonSchema(_NAME_SCHEMA)]
Names = Annotated[list[str], AfterValidator(_unique), AfterValidator(check_names), _NAMES_SCHEMA]
Optionals = Annotated[list[str], AfterValidator(check_names), _OPTIONALS_SCHEMA]
Workflows = Annotated[list[str], AfterValidator(_unique), AfterValidator(_workflows), _WORKFLOWS_SCHEMA]
Digest = Annotated[str, AfterValidator(check_digest), WithJsonSchema(_DIGEST_SCHEMA)]
Digests = Annotated[
    list[str],
    AfterValidator(_unique),
    AfterValidator(_digests),
    WithJsonSchema({"type": "array", "items": _DIGEST_SCHEMA, "minItems": 1, "uniqueItems": True}),
]
Ttl = Annotated[timedelta, BeforeValidator(parse_duration), _span(LONGEST_TTL), _SPAN_SCHEMA]
LongSpan = Annotated[timedelta, BeforeValidator(parse_duration), _span(LONGEST_SPAN), _SPAN_SCHEMA]
Instant = Annotated[datetime, BeforeValidator(parse_instant), _INSTANT_SCHEMA]
TimeOfDay = Annotated[time, BeforeValidator(parse_time), _TIME_SCHEMA]
Zone = Annotated[
    tzinfo, BeforeValidator(_zone), WithJsonSchema({"type": "string", "examples": ["UTC", "Europe/Berlin"]})
]
Day = Annotated[int, BeforeValidator(_day), WithJsonSchema({"enum": list(WEEK)})]
Days = Annotated[list[Day], AfterValidator(_unique)]
Networks = Annotated[
    list[Annotated[Any, BeforeValidator(_network), WithJsonSchema({"type": "string", "examples": ["10.0.0.0/8"]})]],
    AfterValidator(_unique),
    AfterValidator(_few),
]
Attempts = Annotated[
    int, _between(1, MOST_ATTEMPTS), WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MOST_ATTEMPTS})
]
Approvals = Annotated[
    int, _between(0, MOST_APPROVALS), WithJsonSchema({"type": "integer", "minimum": 0, "maximum": MOST_APPROVALS})
]
Budget = Annotated[int, _between(1, MOST_BUDGET), _count_schema(MOST_BUDGET)]
Hourly = Annotated[int, _between(1, MOST_HOURLY), _count_schema(MOST_HOURLY)]
Factor = Annotated[int, _between(1, MOST_FACTOR), _count_schema(MOST_FACTOR)]
GuardSpan = Annotated[timedelta, BeforeValidator(parse_duration), AfterValidator(_guard_span), _SPAN_SCHEMA]
TierName = Annotated[Tier, Choice(Tier, "a tier")]
Concurrency = Annotated[Concurrent, Choice(Concurrent, "concurrent")]
MapSigners = Annotated[Signers, Choice(Signers, "signers")]
Binding = Annotated[Bind, Choice(Bind, "bind")]
Halting = Annotated[OnLock, Choice(OnLock, "on_lock")]
Revocabilities = Annotated[list[Annotated[Revocability, Choice(Revocability, "revocability")]], AfterValidator(_some)]
Reason = Annotated[Denial, Choice(Denial, "a reason")]
Version = Annotated[int, AfterValidator(_version), WithJsonSchema({"const": 1})]
_DOMAIN_SCHEMA = {"type": "string", "pattern": f"^{TRUST_DOMAIN.pattern}$"}
DOMAINS_SCHEMA = {"type": "array", "items": _DOMAIN_SCHEMA, "uniqueItems": True}
TrustDomain = Annotated[str, AfterValidator(_domain), WithJsonSchema(_DOMAIN_SCHEMA)]
TrustDomains = Annotated[list[TrustDomain], AfterValidator(_distinct), WithJsonSchema(DOMAINS_SCHEMA)]
