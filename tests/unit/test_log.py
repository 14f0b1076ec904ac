from __future__ import annotations

import io
import json
import logging
import threading

import pytest

from broker import log
from broker.secret import Secret


@pytest.fixture(params=["json", "console"])
def out(request: pytest.FixtureRequest) -> io.StringIO:
    stream = io.StringIO()
    log.configure("debug", request.param, stream)
    return stream


def test_secrets_are_redacted_in_every_place_they_may_hide(out: io.StringIO) -> None:
    logger = log.get_logger("broker.test")
    logger.info(
        "minted very scv1-ab12-verysecret",
        token="verysecret",
        vault_token=Secret("verysecret"),
        wrapped=[{"Password": "verysecret", "deep": ("hvs.verysecretverysecret",)}],
        body=b"verysecret",
        header="Authorization: Bearer verysecret",
        url="https://root:verysecret@vault:8200/v1",
        pem="-----BEGIN EC PRIVATE KEY-----\nverysecret\n-----END EC PRIVATE KEY-----",
        lease_id="abcdefghijklmnop",
    )
    written = out.getvalue()
    assert "verysecret" not in written
    assert "abcdefghijklmnop" in written


def test_secrets_in_tracebacks_are_redacted_and_locals_never_shown(out: io.StringIO) -> None:
    def fail(inner: str) -> None:
        raise RuntimeError("no such token: scv1-ab12-verysecret")

    try:
        fail("local-secret")
    except RuntimeError:
        log.get_logger("broker.test").exception("failed")
    assert "RuntimeError: no such token: [redacted]" in out.getvalue().replace("\\n", "\n")
    assert "verysecret" not in out.getvalue()
    assert "local-secret" not in out.getvalue().replace('fail("local-secret")', "").replace(
        r"fail(\"local-secret\")", ""
    )


def test_other_libraries_logs_pass_the_same_redactor(out: io.StringIO) -> None:
    logging.getLogger("somebody").warning("token is %s", "hvs.verysecretverysecret", extra={"password": "verysecret"})
    assert "token is [redacted]" in out.getvalue()
    assert "verysecret" not in out.getvalue()


def test_libraries_that_print_what_they_mint_stay_above_debug(out: io.StringIO) -> None:
    for name in (*log.PINNED, "botocore.parsers", "urllib3.connectionpool"):
        logging.getLogger(name).debug("Response body: verysecret")
        logging.getLogger(name).info("Response body: verysecret")
    assert out.getvalue() == ""


def test_whoever_turns_their_debugging_on_later_gets_nothing(
    out: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    """As boto3.set_stream_logger does: a level and a handler on the library's own loggers, around ours."""
    beside = io.StringIO()
    for name in (*log.PINNED, "botocore.parsers", "aiohttp.client", "grpc._cython.cygrpc", "urllib3.connectionpool"):
        logger = logging.getLogger(name)
        handler = logging.StreamHandler(beside)
        before = logger.level
        logger.setLevel(logging.DEBUG)
        logger.addHandler(handler)
        try:
            logger.debug("Response body: %s", "verysecret")
            logger.info("Response body: verysecret", extra={"body": "verysecret"})
            logger.debug("failed", exc_info=RuntimeError("verysecret"), stack_info=True)
        finally:
            logger.removeHandler(handler)
            logger.setLevel(before)
    assert log.KEPT_BACK in beside.getvalue()
    assert "verysecret" not in beside.getvalue()
    assert out.getvalue() == ""
    assert capsys.readouterr().err == ""


def test_a_record_that_cannot_be_written_is_not_printed(out: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    [handler] = (one for one in logging.getLogger().handlers if isinstance(one, log._Handler))
    handler.handle(logging.LogRecord("somebody", logging.WARNING, "here.py", 1, "%d tokens", ("verysecret",), None))
    assert "could not be written" in out.getvalue()
    assert "verysecret" not in out.getvalue() + capsys.readouterr().err


def test_json_lines_have_time_level_logger_and_event() -> None:
    stream = io.StringIO()
    log.configure("info", "json", stream)
    log.get_logger("broker.test").debug("unseen")
    log.get_logger("broker.test").info("seen", lease="x")
    (line,) = stream.getvalue().splitlines()
    record = json.loads(line)
    assert {record["event"], record["level"], record["logger"], record["lease"]} == {"seen", "info", "broker.test", "x"}
    assert record["timestamp"].endswith("Z")


class Fails:
    def __init__(self) -> None:
        self.again = self

    def __del__(self) -> None:
        raise RuntimeError("token=verysecret")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_fails_where_nobody_catches_it_passes_the_redactor_too(
    out: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    """Threads, and what the garbage collector calls."""
    log.configure("debug", "json", out)  # pytest has put its own hooks in place meanwhile

    def fail() -> None:
        raise RuntimeError("token=verysecret")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    Fails().again = None  # type: ignore[assignment]
    for event in ("a thread failed", "an error could not be raised"):
        assert event in out.getvalue()
    assert "token=[redacted]" in out.getvalue()
    assert "verysecret" not in out.getvalue().replace('RuntimeError(\\"token=verysecret', "") + capsys.readouterr().err
