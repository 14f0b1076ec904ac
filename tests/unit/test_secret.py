import copy
import json
import logging
import operator
import pickle
import traceback
from collections.abc import Callable

import pytest

from broker.model import AwsSession, UsernamePassword
from broker.secret import Secret
from tests.fakes.clock import START

VALUE = "hvs.do-not-print-me"


def test_only_reveal_gives_it_back() -> None:
    assert Secret(VALUE).reveal() == VALUE


@pytest.mark.parametrize(
    "show", [str, repr, "{}".format, "{!r}".format, "{:>40}".format, lambda s: f"{s}", "%s".__mod__]
)
def test_i6_no_way_of_formatting_shows_it(show: Callable[[Secret], str]) -> None:
    assert VALUE not in show(Secret(VALUE))


@pytest.mark.parametrize("copying", [pickle.dumps, copy.copy, copy.deepcopy, json.dumps, vars, hash])
def test_i6_nothing_that_would_let_it_live_on_works(copying: Callable[[Secret], object]) -> None:
    with pytest.raises(TypeError) as caught:
        copying(Secret(VALUE))
    assert VALUE not in str(caught.value)


def test_i6_a_credential_that_is_logged_or_raised_shows_nothing(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret(VALUE)
    session = AwsSession(
        access_key_id="AKIA",
        secret_access_key=secret,
        session_token=secret,
        region="eu-west-1",
        endpoint_url="",
        session_expires_at=START,
    )

    def fail(*held: object) -> None:
        raise RuntimeError(*held)

    try:
        fail(session, UsernamePassword(username="u", password=secret))
    except RuntimeError:
        logging.getLogger("test").exception("minted %s", session)
        seen = traceback.format_exc() + caplog.text
    assert "AKIA" in seen
    assert VALUE not in seen


def test_comparing_is_explicit_and_by_value() -> None:
    assert Secret(VALUE).matches(Secret(VALUE))
    assert not Secret(VALUE).matches(Secret(VALUE + "x"))
    assert Secret("Schlüssel").matches(Secret("Schlüssel"))
    for careless in (operator.eq, operator.ne):
        with pytest.raises(TypeError, match="matches"):
            careless(Secret("a"), Secret("a"))
    with pytest.raises(TypeError, match="matches"):
        [Secret("a")].index(Secret("a"))
