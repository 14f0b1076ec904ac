"""Short-lived credentials for one step of a workflow, taken back when the step ends.

    import stepcred

    with stepcred.connect() as broker, broker.step(workflow="nightly-etl", run="42", step="load",
                                                   scopes=["orders-read"]) as step:
        credential = step.issue("orders-read")
        subprocess.run(["psql", ...], env=os.environ | credential.env())

The same in asyncio is `stepcred.aio.connect()`. Everything raised is a `StepcredError`.
"""

from __future__ import annotations

# Also when each of them is imported by somebody else, all together cost 70 ms; a name costs what it needs, once.
TYPE_CHECKING = False  # as in typing, which costs 10 ms

if TYPE_CHECKING:
    from stepcred import aio
    from stepcred._credentials import (
        AwsSession,
        Credential,
        Jwt,
        KeyValue,
        SshCertificate,
        UsernamePassword,
        VaultToken,
        X509Certificate,
    )
    from stepcred._current import current_step
    from stepcred._errors import (
        AccessDenied,
        BrokerUnavailable,
        DeadlineExceeded,
        GuardRefused,
        NeedsApproval,
        NoIdentity,
        ProviderFailed,
        Refused,
        SettingsError,
        StepcredError,
        StepEnded,
        TlsRefused,
        UnexpectedAnswer,
        Verdict,
    )
    from stepcred._models import (
        Access,
        Evidence,
        Identity,
        Launched,
        Lease,
        LeaseOutcome,
        LeaseState,
        ReachableScope,
        ReachingGrant,
        Revocability,
        ScopeVerdict,
        Tier,
    )
    from stepcred._sync import Broker, connect
    from stepcred._sync_step import Step
    from stepcred._workload_api import WorkloadApi

__all__ = [
    "Access",
    "AccessDenied",
    "AwsSession",
    "Broker",
    "BrokerUnavailable",
    "Credential",
    "DeadlineExceeded",
    "Evidence",
    "GuardRefused",
    "Identity",
    "Jwt",
    "KeyValue",
    "Launched",
    "Lease",
    "LeaseOutcome",
    "LeaseState",
    "NeedsApproval",
    "NoIdentity",
    "ProviderFailed",
    "ReachableScope",
    "ReachingGrant",
    "Refused",
    "Revocability",
    "ScopeVerdict",
    "SettingsError",
    "SshCertificate",
    "Step",
    "StepEnded",
    "StepcredError",
    "Tier",
    "TlsRefused",
    "UnexpectedAnswer",
    "UsernamePassword",
    "VaultToken",
    "Verdict",
    "WorkloadApi",
    "X509Certificate",
    "aio",
    "connect",
    "current_step",
]

_FROM = {
    "stepcred._credentials": (
        "AwsSession",
        "Credential",
        "Jwt",
        "KeyValue",
        "SshCertificate",
        "UsernamePassword",
        "VaultToken",
        "X509Certificate",
    ),
    "stepcred._current": ("current_step",),
    "stepcred._errors": (
        "AccessDenied",
        "BrokerUnavailable",
        "DeadlineExceeded",
        "GuardRefused",
        "NeedsApproval",
        "NoIdentity",
        "ProviderFailed",
        "Refused",
        "SettingsError",
        "StepEnded",
        "StepcredError",
        "TlsRefused",
        "UnexpectedAnswer",
        "Verdict",
    ),
    "stepcred._models": (
        "Access",
        "Evidence",
        "Identity",
        "Launched",
        "Lease",
        "LeaseOutcome",
        "LeaseState",
        "ReachableScope",
        "ReachingGrant",
        "Revocability",
        "ScopeVerdict",
        "Tier",
    ),
    "stepcred._sync": ("Broker", "connect"),
    "stepcred._sync_step": ("Step",),
    "stepcred._workload_api": ("WorkloadApi",),
}
_LAZY = {name: module for module, names in _FROM.items() for name in names}


def __getattr__(name: str) -> object:
    import importlib

    if name == "aio":
        return importlib.import_module("stepcred.aio")
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
