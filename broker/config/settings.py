"""Every setting with its default. Plain frozen dataclasses: tests and tools may make them by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ConfigDict

from broker.config.approvals import Approvals, check_approvals
from broker.config.limits import Limits, check_limits
from broker.config.notices import Alerts, Receiver, Webhooks, notice_problems
from broker.config.providers import Aws, Vault, check_aws, check_vault
from broker.config.signing_keys import load_public_keys
from broker.config.tiers import Guard
from broker.config.values import (
    Address,
    Count,
    Duration,
    KeyFile,
    Listener,
    LooseFile,
    LooseSecret,
    Name,
    Patience,
    PublicFile,
    PublicFiles,
    SecretFile,
    Socket,
    StateFile,
    Switch,
    Text,
    choice,
)
from broker.errors import ConfigError
from broker.model import Tier
from broker.permissions import problem_if_there
from broker.process import credentials_directory

SDK_DEADLINE = timedelta(seconds=15)  # of a client's call, by default: a mint that takes longer is lost to it
MANIFEST_SUFFIX = ".dsse.json"  # behind the map's own name
_BESIDE = ("-wal", "-shm", "-journal", "-reserve", ".lock")  # what SQLite and the store keep beside a database
_GRPC = Address(host="127.0.0.1", port=8443)
_HTTP = Address(host="127.0.0.1", port=8080)
_OPERATORS = Address(host="127.0.0.1", port=8444)


class LogLevel(Enum):
    """Of the broker's own loggers; the SDKs' never go below warning."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(Enum):
    """One JSON object per line, or for people."""

    JSON = "json"
    CONSOLE = "console"


class OnStop(Enum):
    """What `serve` does with live leases when it is told to stop."""

    KEEP = "keep"  # they and their steps wait for the next epoch
    REVOKE = "revoke"


class StaleCrl(Enum):
    """What becomes of certificates whose issuer's revocation list has run out."""

    REFUSE = "refuse"  # whoever keeps the next list away would keep a revoked certificate alive
    KEEP = "keep"  # the last list stays good, and is remarked on


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """Every bound of DESIGN section 4, with its default."""

    heartbeat: Duration = timedelta(seconds=10)
    silence_bound: Duration = timedelta(seconds=45)
    start_within: Duration = timedelta(minutes=15)
    mint_timeout: Duration = timedelta(seconds=10)  # below the SDK's deadline
    claim_window: Duration = timedelta(seconds=30)
    clock_skew: Duration = timedelta(seconds=30)
    drain_grace: Duration = timedelta(seconds=20)
    epoch_life: Duration = timedelta(seconds=15)
    epoch_renew: Duration = timedelta(seconds=5)
    keep_requests: Duration = timedelta(hours=24)  # beyond the step's life


@dataclass(frozen=True, kw_only=True, slots=True)
class Listen:
    """`grpc` for agents, with mutual TLS; `http` for health and metrics, without."""

    grpc: Listener = _GRPC
    http: Listener = _HTTP
    allow_remote_http: Switch = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Tls:
    """The server's certificate, and whose client certificates are believed."""

    cert_file: PublicFile | None = None
    key_file: SecretFile | None = None
    client_ca_file: PublicFile | None = None
    workload_api: Socket | None = None  # of a SPIFFE agent, instead of these three
    spiffe_id: Text = ""  # which of several that it has for the broker; its first when empty
    max_client_certificate_life: Duration = timedelta(days=90)
    crl_files: PublicFiles = ()  # of the CAs that issue to agents
    deny_file: PublicFile | None = None  # who is not let in, agents and operators alike
    stale_crl: Annotated[StaleCrl, choice(StaleCrl)] = StaleCrl.REFUSE


@dataclass(frozen=True, kw_only=True, slots=True)
class Federated:
    """Another trust domain whose agents may come in: its own bundle vouches for its own names only."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # a table of tables: `sources` does not look inside

    client_ca_file: PublicFile | None = None  # with a SPIFFE agent: what it pushes
    crl_files: PublicFiles = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Operators:
    """Their listener, and the roots of their certificates, which no agent's can lead to."""

    client_ca_file: PublicFile
    listen: Listener = _OPERATORS
    crl_files: PublicFiles = ()
    file: LooseFile | None = None  # who they are and what they may do; without it they see the front door, and no more
    second_factor_key_file: LooseSecret | None = None  # under which the second factors in `file` are sealed


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreSettings:
    """The database, and the key file that must never lie in the same backup."""

    path: StateFile
    mint_key_file: KeyFile  # or credential:NAME, from systemd
    anchor_file: StateFile | None = None  # beside the mint key when None

    @property
    def anchor(self) -> Path:
        """Where the journal's head is noted, out of the reach of the database's backups."""
        return self.anchor_file or self.mint_key_file.with_name(self.mint_key_file.name + ".anchor")


def _check_signers(keys: Mapping[str, Path]) -> Mapping[str, Path]:
    if not keys:  # a threshold of nobody would be reached by everybody
        raise ValueError("names no key; name those that may sign the scope map, or remove the section")
    try:
        load_public_keys(keys)
    except ConfigError as error:
        raise ValueError("\n".join(error.problems)) from None
    return keys


@dataclass(frozen=True, kw_only=True, slots=True)
class Grace:
    """How long a credential may live on when its grant has gone, by tier. A deny rule waits for nothing."""

    low: Patience = timedelta(minutes=5)
    elevated: Patience = timedelta(minutes=1)
    high: Patience = timedelta(0)

    def of(self, tier: Tier) -> timedelta:
        """Of this tier."""
        return {Tier.LOW: self.low, Tier.ELEVATED: self.elevated, Tier.HIGH: self.high}[tier]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scopes:
    """The scope map, and how it is kept up to date. With `keys` it must come with a manifest that they signed."""

    file: LooseFile  # a start with a bad one, or none, goes on with the last good map
    keys: Annotated[Mapping[Name, PublicFile], AfterValidator(_check_signers)] = field(default_factory=dict)
    threshold: Count = 1  # distinct keys
    threshold_high: Count = 2  # for a map that widens what is of tier high
    manifest: LooseFile | None = None  # beside the map when None
    watch: Switch = True  # look when the file system tells of a change
    poll: Duration = timedelta(seconds=30)  # and look anyway: not every file system tells
    grace: Grace = field(default_factory=Grace)

    @property
    def manifest_file(self) -> Path:
        """The DSSE envelope."""
        return self.manifest or self.file.with_name(self.file.name + MANIFEST_SUFFIX)


@dataclass(frozen=True, kw_only=True, slots=True)
class Log:
    """On standard error."""

    level: Annotated[LogLevel, choice(LogLevel)] = LogLevel.INFO
    format: Annotated[LogFormat, choice(LogFormat)] = LogFormat.JSON


def _check_timings(timings: Timings) -> Timings:
    problems = []
    if timings.silence_bound < 2 * timings.heartbeat:
        problems.append("silence_bound must be at least twice heartbeat, or one lost heartbeat ends a step")
    if timings.epoch_life < 2 * timings.epoch_renew:
        problems.append("epoch_life must be at least twice epoch_renew, or one slow write loses the epoch")
    if not timedelta(0) < timings.mint_timeout < SDK_DEADLINE:
        problems.append("mint_timeout must be below 15s, the SDK's own deadline, or what is minted reaches nobody")
    if problems:
        raise ValueError("\n".join(problems))
    return timings


def _check_listen(listen: Listen) -> Listen:
    problems = []
    if not listen.http.loopback and not listen.allow_remote_http:
        problems.append(
            "http asks no client for a certificate and must be a loopback address; "
            "use 127.0.0.1, or set allow_remote_http = true when something else keeps strangers out"
        )
    if listen.http == listen.grpc and listen.grpc.port:
        problems.append("grpc and http must not be the same address")
    if problems:
        raise ValueError("\n".join(problems))
    return listen


def _check_tls(tls: Tls) -> Tls:
    files = {name: getattr(tls, name) for name in ("cert_file", "key_file", "client_ca_file")}
    if tls.workload_api is None:
        problems = [
            f"{name} is missing; set it, or workload_api for all three" for name, path in files.items() if not path
        ]
        if tls.spiffe_id:
            problems.append("spiffe_id needs workload_api")
    else:
        problems = [f"{name} and workload_api: set one of them" for name, path in files.items() if path]
    if problems:
        raise ValueError("\n".join(problems))
    return tls


def _check_store(store: StoreSettings) -> StoreSettings:
    if store.anchor_file is None and store.mint_key_file.parent == credentials_directory():
        raise ValueError("set anchor_file: its default is beside the mint key, and a credential's folder is read-only")
    # Each is replaced or written over as a whole: an anchor in the mint key's place destroys the only key.
    database = store.path.resolve()
    files = {"path": database, "mint_key_file": store.mint_key_file, "anchor_file": store.anchor}
    files |= {f"path with {end}": database.with_name(database.name + end) for end in _BESIDE}
    owner: dict[object, str] = {}
    same = [
        f"{first} and {name} are the same file; each needs one of its own"
        for name, path in files.items()
        if (first := owner.setdefault(_identity(path), name)) != name
    ]
    if same:
        raise ValueError("\n".join(same))
    # Made by another hand, or put back from a backup; the paths themselves were looked at one by one.
    beside = {name: path for name, path in files.items() if name not in ("path", "mint_key_file")}
    if open_ := [f"{name}: {path} {why}" for name, path in beside.items() if (why := problem_if_there(path))]:
        raise ValueError("\n".join(open_))
    return store


def _check_scopes(scopes: Scopes) -> Scopes:
    problems = []
    if not scopes.keys:
        if scopes.manifest or (scopes.threshold, scopes.threshold_high) != (1, 2):
            problems.append(
                "threshold, threshold_high and manifest need [scopes.keys]: without keys nothing is checked"
            )
    elif scopes.threshold_high > len(scopes.keys):
        problems.append(
            f"threshold_high is more than the number of keys, {len(scopes.keys)}: they could never sign enough"
        )
    if scopes.threshold_high < scopes.threshold:
        problems.append("threshold_high must not be less than threshold")
    if problems:
        raise ValueError("\n".join(problems))
    return scopes


def _identity(path: Path) -> object:
    """The same for two names of one file, by whatever links."""
    try:
        found = path.stat()
    except OSError:
        return path.resolve()
    return found.st_dev, found.st_ino


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """All of it. One broker serves one environment."""

    environment: Name
    trust_domain: Name
    tls: Annotated[Tls, AfterValidator(_check_tls)]
    store: Annotated[StoreSettings, AfterValidator(_check_store)]
    scopes: Annotated[Scopes, AfterValidator(_check_scopes)]
    listen: Annotated[Listen, AfterValidator(_check_listen)] = field(default_factory=Listen)
    federation: Mapping[Name, Federated] = field(default_factory=dict)  # trust domain → whose
    operators: Operators | None = None  # without it nobody is one
    timings: Annotated[Timings, AfterValidator(_check_timings)] = field(default_factory=Timings)
    vault: Annotated[Vault, AfterValidator(check_vault)] | None = None
    aws: Annotated[Aws, AfterValidator(check_aws)] | None = None
    guard: Guard = field(default_factory=Guard)
    approvals: Annotated[Approvals, AfterValidator(check_approvals)] = field(default_factory=Approvals)
    webhooks: Webhooks | None = None
    alerts: Alerts = field(default_factory=Alerts)
    compensation: Mapping[Name, Receiver] = field(default_factory=dict)  # what a tier may name → who undoes
    limits: Annotated[Limits, AfterValidator(check_limits)] = field(default_factory=Limits)
    log: Log = field(default_factory=Log)


def whole_problems(config: Config) -> list[str]:
    """What no section can see by itself."""
    problems = notice_problems(config.webhooks, config.alerts, config.compensation)
    if config.trust_domain in config.federation:
        problems.append(
            f"federation.{config.trust_domain}: is this broker's own trust_domain; its bundle is tls.client_ca_file"
        )
    if config.tls.workload_api is None:
        problems += [
            f"federation.{name}.client_ca_file: missing; set it, or tls.workload_api"
            for name, other in config.federation.items()
            if other.client_ca_file is None
        ]
    if (operators := config.operators) and operators.second_factor_key_file and not operators.file:
        problems.append("operators.second_factor_key_file: needs operators.file, in which the second factors stand")
    if operators and operators.listen.port:
        for key, other in (("listen.grpc", config.listen.grpc), ("listen.http", config.listen.http)):
            if operators.listen == other:
                problems.append(f"operators.listen: is {key} too; operators have an address of their own")
    return problems
