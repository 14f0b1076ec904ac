"""What is raised crosses to other processes and threads as it is."""

from __future__ import annotations

import copy
import pickle
import traceback
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

import stepcred
from stepcred._flights import Flights
from tests.fakes.broker_server import DENIED, FakeBroker
from tests.unit.client.test_lease_blocks import eventually

ERRORS = [
    stepcred.SettingsError(["one", "another"]),
    stepcred.Refused("no", reason="LOCKED", reference_id="ref-1", retry_after=3.0, scope="orders-read"),
    stepcred.NeedsApproval("ask them", reason="NEEDS_APPROVAL", metadata={"approval_id": "a-1"}),
    stepcred.BrokerUnavailable("away", reason="DRAINING", retry_after=1.0),
    stepcred.NoIdentity("none", not_yet=True),
    stepcred.DeadlineExceeded("late"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_comes_out_of_another_process_as_it_is(error: stepcred.StepcredError) -> None:
    for made in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(made) is type(error)
        assert (str(made), vars(made)) == (str(error), vars(error))


def test_why_something_is_kept_no_longer_may_be_asked_any_number_of_times(
    fake: FakeBroker, environ: dict[str, str]
) -> None:
    fake.ttl, fake.heartbeat = timedelta(seconds=1), 60.0
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"]) as step:
        step.credential("orders-read")
        fake.script("IssueCredential", *[DENIED] * 3)

        def told() -> stepcred.StepcredError | None:
            try:
                step.kept("orders-read")
            except stepcred.StepcredError as error:
                return error
            return None

        assert eventually(lambda: told() is not None)
        lengths = {len(traceback.extract_tb(error.__traceback__)) for _ in range(5) if (error := told()) is not None}
        assert len(lengths) == 1, "each one who asked has made the traceback longer"


def test_whoever_is_interrupted_before_asking_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    flights: Flights[int] = Flights()

    class Interrupted(dict[str, object]):
        """Ctrl-C comes as soon as others can see that it is asked for."""

        def setdefault(self, key: str, default: object = None) -> object:
            super().setdefault(key, default)
            raise KeyboardInterrupt

    monkeypatch.setattr(flights, "_flying", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        flights.join("a", known=lambda: None, get=lambda: 7, timeout=1)
    monkeypatch.setattr(flights, "_flying", dict(flights._flying))
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(flights.join, "a", known=lambda: None, get=lambda: 7, timeout=1).result() == 7
