from __future__ import annotations

import copy
import dataclasses
import gc
import inspect
import io
import json
import logging
import operator
import pickle
import pprint
import string
import sys
import traceback
import weakref
from collections.abc import Callable
from typing import Any

import pydantic
import pytest
import rich.console
import rich.pretty
import rich.traceback
import structlog

from broker.model import AwsSession, KeyValue, UsernamePassword, VaultToken
from broker.secret import Secret
from tests.fakes.clock import START

VALUE = "hvs.do-not-print-me"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """As our own credentials hold one."""

    secret: Secret
    many: tuple[Secret, ...] = ()


def _held() -> Holder:
    return Holder(secret=Secret(VALUE), many=(Secret(VALUE),))


def test_only_reveal_gives_it_back() -> None:
    assert Secret(VALUE).reveal() == VALUE


# --- what shows something shows nothing ---


def _rich(value: object) -> str:
    console = rich.console.Console(file=io.StringIO(), width=200)
    console.print(value)
    console.print(rich.pretty.pretty_repr(value))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def _inspected(value: object) -> str:
    console = rich.console.Console(file=io.StringIO(), width=200)
    rich.inspect(value, console=console, all=True)
    return str(console.file.getvalue()) + repr(inspect.getmembers(value))  # type: ignore[attr-defined]


def _frames(value: object, show: Callable[[], str]) -> str:
    """`show` of an exception that was raised with `value` among the locals."""

    def fail(held: object) -> None:
        raise RuntimeError("no", held)

    try:
        fail(value)
    except RuntimeError:
        return show()
    raise AssertionError


def _rich_traceback(value: object) -> str:
    def show() -> str:
        console = rich.console.Console(file=io.StringIO(), width=200)
        console.print(rich.traceback.Traceback(show_locals=True))
        return str(console.file.getvalue())  # type: ignore[attr-defined]

    return _frames(value, show)


def _stdlib_traceback(value: object) -> str:
    def show() -> str:
        kind, error, where = sys.exc_info()
        assert kind is not None
        assert error is not None
        return "".join(traceback.TracebackException(kind, error, where, capture_locals=True).format())

    return _frames(value, show)


def _structlog_traceback(value: object) -> str:
    def show() -> str:
        tree = structlog.tracebacks.ExceptionDictTransformer(show_locals=True)(sys.exc_info())  # type: ignore[arg-type]
        return json.dumps(tree)

    return _frames(value, show)


def _pydantic(value: object) -> str:
    if not isinstance(value, Secret):
        return repr(value)
    model = pydantic.create_model(
        "M", __config__=pydantic.ConfigDict(arbitrary_types_allowed=True), held=(Secret, ...), other=(int, 1)
    )
    shown = repr(model(held=value))
    with pytest.raises(pydantic.ValidationError) as caught:
        model(held=value, other=value)
    return shown + str(caught.value)


SHOWING: list[Callable[[Any], str]] = [
    str,
    repr,
    ascii,
    "{}".format,
    "{!r}".format,
    lambda s: f"{s:>40}" if isinstance(s, Secret) else str(s),
    "{0!s:>40}".format,
    lambda s: f"{s}",
    "%s".__mod__,
    "%r".__mod__,
    lambda s: string.Template("$s").substitute(s=s),
    lambda s: json.dumps({"held": s}, default=str),
    lambda s: json.dumps({"held": s}, default=repr),
    pprint.pformat,
    lambda s: pprint.pformat([{"held": s}]),
    _rich,
    _inspected,
    _rich_traceback,
    _stdlib_traceback,
    _structlog_traceback,
    _pydantic,
    lambda s: str(structlog.processors.JSONRenderer()(None, "", {"held": s})),
    lambda s: str(structlog.processors.KeyValueRenderer()(None, "", {"held": s})),
    lambda s: str(structlog.dev.ConsoleRenderer()(None, "", {"event": "e", "held": s})),
    lambda s: repr(gc.get_referents(s)),
    lambda s: str(ValueError(s)) + repr(KeyError(s)),
]


@pytest.mark.parametrize("show", SHOWING)
@pytest.mark.parametrize("value", [lambda: Secret(VALUE), _held], ids=["bare", "held"])
def test_i6_no_way_of_showing_it_shows_it(show: Callable[[Any], str], value: Callable[[], Any]) -> None:
    assert VALUE not in show(value())


def test_the_ways_of_showing_do_show_what_is_no_secret() -> None:
    """The mutant: a plain string in its place is seen by each of them."""
    blind = [show for show in SHOWING if VALUE not in show(Holder(secret=VALUE))]  # type: ignore[arg-type]
    assert not blind


# --- what would let it live on, or be used without being meant, fails ---


@pytest.mark.parametrize(
    "careless",
    [
        pickle.dumps,
        copy.copy,
        copy.deepcopy,
        json.dumps,
        vars,
        hash,
        bool,
        len,
        iter,
        list,
        bytes,
        int,
        float,
        sorted,
        weakref.ref,
        lambda s: s.__getstate__(),
        lambda s: s.__reduce_ex__(4),
        lambda s: "x" in s,
        lambda s: s[0],
        lambda s: "token " + s,
        lambda s: s + "",
        "".join,
        lambda s: ",".join(["a", s]),  # noqa: FLY002 - the point
        "%d".__mod__,
        lambda s: s or None,
        lambda s: s or "",
        lambda s: {s: 1},
        lambda s: {s},
        lambda s: s < s,  # noqa: PLR0124
        lambda s: setattr(s, "_told", str),
        lambda s: setattr(s, "more", 1),
        lambda s: type("Loud", (Secret,), {}),
    ],
)
def test_i6_nothing_that_would_use_it_without_meaning_to_works(careless: Callable[[Any], object]) -> None:
    with pytest.raises(TypeError) as caught:
        careless(Secret(VALUE))
    assert VALUE not in str(caught.value)


@pytest.mark.parametrize("dissolve", [dataclasses.asdict, dataclasses.astuple, copy.deepcopy, pickle.dumps, hash])
def test_i6_a_holder_is_not_dissolved(dissolve: Callable[[Any], object]) -> None:
    with pytest.raises(TypeError) as caught:
        dissolve(_held())
    assert VALUE not in str(caught.value)


def test_a_changed_copy_of_a_holder_holds_the_same_secret() -> None:
    assert dataclasses.replace(_held(), many=()).secret.reveal() == VALUE


def test_its_size_tells_nothing() -> None:
    assert sys.getsizeof(Secret("x")) == sys.getsizeof(Secret("x" * 1000))


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
    held = (
        session,
        UsernamePassword(username="u", password=secret),
        VaultToken(token=secret, address="https://v", namespace=""),
        KeyValue(data={"password": secret}, version=1),
    )

    def fail(*held: object) -> None:
        raise RuntimeError(*held)

    try:
        fail(*held)
    except RuntimeError:
        logging.getLogger("test").exception("minted %s", held)
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
