"""Variables of others that steer gRPC, and those of which people think they do. All measured with gRPC 1.85."""

from __future__ import annotations

from collections.abc import Iterator

from stepcred.cli._doctor._finding import Case, Finding, ok, problem, warning

_PROXIES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")
_STEERING = {
    # With both, calls go through the proxy although our channel says that it wants none.
    "GRPC_ADDRESS_HTTP_PROXY_ENABLED_ADDRESSES": "sends calls to these addresses through GRPC_ADDRESS_HTTP_PROXY",
    "GRPC_SSL_CIPHER_SUITES": "leaves gRPC without TLS when it names a suite that gRPC does not know",
    "GRPC_DNS_RESOLVER": "makes gRPC look up names in another way than this machine",
    "GRPC_EXPERIMENTS": "switches on what gRPC calls experiments",
}
_POLLING = {"all", "epoll1", "none", "poll"}


def look(case: Case) -> Iterator[Finding]:
    """Never shows a value: proxies carry passwords. Fills `steered` and `grpc_aborts`."""
    found = [*_steering(case)]
    yield from found
    proxies = sorted(name for name, value in case.environ.items() if value and name.lower() in _PROXIES)
    if proxies:
        yield ok(f"{', '.join(proxies)}: not used for the broker, which is called directly")
    elif not found:
        yield ok("no variable steers gRPC")


def _steering(case: Case) -> Iterator[Finding]:
    for name, effect in _STEERING.items():
        if case.environ.get(name):
            case.steered.append(name)
            yield warning(f"{name} {effect}", f"unset {name}")
    strategy = case.environ.get("GRPC_POLL_STRATEGY", "")
    if strategy and not _POLLING.issuperset(strategy.split(",")):
        case.grpc_aborts = True
        yield problem("GRPC_POLL_STRATEGY has a value with which gRPC aborts the process", "unset GRPC_POLL_STRATEGY")
    if case.environ.get("GRPC_TRACE") and case.environ.get("GRPC_VERBOSITY", "").upper() in ("DEBUG", "INFO"):
        text = "GRPC_TRACE can write to stderr what is sent and received, credentials included"
        yield warning(text, "unset GRPC_TRACE GRPC_VERBOSITY")
