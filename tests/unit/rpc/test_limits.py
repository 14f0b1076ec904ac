from __future__ import annotations

import resource
from typing import Any

import pytest
from structlog.testing import capture_logs

from broker import process
from broker.config import Aws, Limits, Vault
from broker.errors import ConfigError
from broker.rpc.limits import backlog, options, reserve, within


def test_a_limit_of_ours_reaches_grpc_in_its_unit() -> None:
    told = dict(options(Limits()))
    assert told["grpc.server_handshake_timeout_ms"] == 5000
    assert told["grpc.max_connection_age_ms"] == 1_800_000
    assert told["grpc.so_reuseport"] == 0
    assert told["grpc.http2.max_ping_strikes"] == 0  # counting them costs more than answering
    assert told["grpc.absolute_max_metadata_size"] == told["grpc.max_metadata_size"] == 8192


def test_the_reserve_counts_what_providers_may_open() -> None:
    vault, aws = Vault(address="https://v", max_connections=10), Aws(region="r", mint_workers=3, revoke_workers=2)
    assert reserve(Limits(reserved_files=100), None, None) == 100
    assert reserve(Limits(reserved_files=100), vault, aws) == 100 + 20 + 5


def test_enough_files_change_nothing() -> None:
    assert within(Limits(max_connections=100), files=150, reserved=50) == Limits(max_connections=100)


def test_too_few_files_lower_the_cap_and_say_what_to_set() -> None:
    with capture_logs() as log:
        found = within(Limits(max_connections=1000), files=300, reserved=100)
    assert found == Limits(max_connections=200)
    (line,) = log
    assert (line["max_connections"], line["log_level"]) == (200, "warning")
    assert "LimitNOFILE=1100" in line["remedy"]


def test_when_next_to_nothing_is_left_the_start_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"may open 110 files, and 100 are reserved.*allow it 1100"):
        within(Limits(max_connections=1000), files=110, reserved=100)


def test_grpc_lets_more_calls_in_than_are_worked_on_so_that_the_refusal_is_ours() -> None:
    assert backlog(Limits(max_concurrent_rpcs=100)) > 2 * 100


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    state: dict[str, Any] = {"now": (100, 5000)}
    monkeypatch.setattr(resource, "getrlimit", lambda _what: state["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda _what, pair: state.update(now=pair))
    return state


@pytest.mark.parametrize(
    ("now", "then"),
    [
        ((100, 5000), 5000),
        ((5000, 5000), 5000),
        ((100, resource.RLIM_INFINITY), process.MOST_FILES),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), process.MOST_FILES),
        ((100, 1 << 30), process.MOST_FILES),
    ],
)
def test_the_soft_limit_is_raised_to_the_hard_one(limit: dict[str, Any], now: tuple[int, int], then: int) -> None:
    limit["now"] = now
    assert process.raise_file_limit() == then
    assert limit["now"][1] == now[1]


def test_a_limit_that_cannot_be_raised_is_told_as_it_is(limit: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("not permitted")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert process.raise_file_limit() == 100
