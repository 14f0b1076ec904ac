"""Codes: taken once, guessed seldom; the secret bound to its operator and revision."""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyotp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.clock import Moment
from broker.errors import BrokerError, ConfigError, Reason
from broker.operators import sealing, second_factor
from broker.operators.model import Sealed
from broker.operators.sealing import SealBroken, SealingKey, generate_key, parse_key
from broker.operators.second_factor import CLOSED_FOR, MOST_FAILURES, STEP, Refused, SecondFactors, Taken
from broker.permissions import secret_problem
from broker.secret import Secret
from broker.store.halts import SecondFactor
from broker.store.sqlite import open_store
from tests.fakes.clock import FakeClock
from tests.fakes.domain import NOW
from tests.unit.operators.people import KEY, SECRET, mutant, operator, sealed_for

FACTORS = SecondFactors(lambda: KEY)


def code(at: datetime, *, steps: int = 0, secret: str = SECRET) -> str:
    return pyotp.TOTP(secret).at(at, counter_offset=steps)


def wrong(at: datetime) -> str:
    near = {code(at, steps=n) for n in range(-3, 4)}
    return next(
        text
        for text in ("000000", "111111", "222222", "333333", "444444", "555555", "666666", "777777")
        if text not in near
    )


def _contents(folder: Path) -> list[bytes]:
    return [file.read_bytes() for file in folder.iterdir()]


class Person:
    """An operator whose row is kept between codes."""

    def __init__(self, module: Any = second_factor, **changes: Any) -> None:
        self.clock = FakeClock()
        self.operator = operator(**changes)
        self.factors = module.SecondFactors(lambda: KEY)
        self.row: SecondFactor | None = None

    def gives(self, text: str) -> Reason | None:
        verdict = self.factors.look(self.operator, self.row, text, self.clock.moment())
        self.row = verdict.row or self.row
        return verdict.error.reason if hasattr(verdict, "error") else None

    def code(self, steps: int = 0) -> str:
        return code(self.clock.now(), steps=steps)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(59, "287082"), (1111111109, "081804"), (1234567890, "005924"), (2000000000, "279037"), (20000000000, "353130")],
)
def test_the_vectors_of_rfc_6238_are_taken(seconds: int, text: str) -> None:
    now = Moment(wall=datetime.fromtimestamp(seconds, UTC), boot=1.0, boot_id="b")
    verdict = FACTORS.look(operator(), None, text, now)
    assert isinstance(verdict, Taken)
    assert verdict.row.last_step == seconds // 30


@pytest.mark.parametrize("steps", [-1, 0, 1])
def test_the_window_is_one_step_to_either_side(steps: int) -> None:
    ann = Person()
    assert ann.gives(ann.code(2 * steps or 2)) is Reason.CODE_WRONG
    assert ann.gives(ann.code(steps)) is None


def test_a_code_is_taken_once() -> None:
    ann = Person()
    text = ann.code()
    assert ann.gives(text) is None
    assert ann.gives(text) is Reason.CODE_REPLAYED
    ann.clock.advance(STEP)
    assert ann.gives(text) is Reason.CODE_REPLAYED  # still within the window
    assert ann.gives(ann.code()) is None


def test_a_code_of_the_step_before_is_not_taken_after_a_later_one() -> None:
    ann = Person()
    before = ann.code(-1)
    assert ann.gives(ann.code()) is None
    assert ann.gives(before) is Reason.CODE_REPLAYED


def test_a_clock_that_goes_back_a_day_opens_no_replay() -> None:
    ann = Person()
    ann.clock.advance(86_400)
    assert ann.gives(ann.code()) is None
    ann.clock.set_wall(ann.clock.now() - timedelta(days=1))
    assert ann.gives(ann.code()) is Reason.CODE_REPLAYED


def test_mutants_that_remember_no_step_or_only_the_very_one_take_a_code_again() -> None:
    forgetful = Person(mutant(second_factor, "last_step=max(matching), failures=0", "failures=0"))
    text = forgetful.code()
    assert [forgetful.gives(text), forgetful.gives(text)] == [None, None]
    last_only = Person(mutant(second_factor, "max(matching) <= known.last_step", "max(matching) == known.last_step"))
    before = last_only.code(-1)
    assert [last_only.gives(last_only.code()), last_only.gives(before)] == [None, None]


@pytest.mark.parametrize(
    "spelling",
    [
        " {}",
        "{} ",
        "{}\n",
        "\t{}",
        "{}\0",
        "+{}",
        "0{}",
        "{}0",
        "{}\u200b",
        "\ufeff{}",
    ],
)
def test_another_spelling_of_a_good_code_is_wrong_and_counted(spelling: str) -> None:
    ann = Person()
    assert ann.gives(spelling.format(ann.code())) is Reason.CODE_WRONG
    assert ann.row is not None
    assert (ann.row.failures, ann.row.last_step) == (1, 0)


@pytest.mark.parametrize("zero", ["\uff10", "\u0660", "\u0966", "\U0001d7ce"])
def test_other_digits_are_no_digits(zero: str) -> None:
    ann = Person()
    other = "".join(chr(ord(zero) + int(digit)) for digit in ann.code())
    assert int(other) == int(ann.code())  # Python would read it
    assert ann.gives(other) is Reason.CODE_WRONG


def test_blanks_between_the_digits_are_wrong() -> None:
    ann = Person()
    text = ann.code()
    assert ann.gives(f"{text[:3]} {text[3:]}") is Reason.CODE_WRONG
    assert ann.gives(text) is None


def test_without_a_code_nothing_is_counted() -> None:
    ann = Person()
    assert ann.gives("") is Reason.CODE_WRONG
    assert ann.row is None


def test_five_wrong_ones_close_it_and_each_further_one_again() -> None:
    ann = Person()
    said = [ann.gives(wrong(ann.clock.now())) for _ in range(MOST_FAILURES)]
    assert said == [Reason.CODE_WRONG] * 4 + [Reason.CODE_LOCKED]
    row = ann.row
    assert ann.gives(ann.code()) is Reason.CODE_LOCKED  # a good one too
    assert ann.row == row  # and what comes meanwhile makes it no longer
    ann.clock.advance(CLOSED_FOR.total_seconds() - 1)
    assert ann.gives(ann.code()) is Reason.CODE_LOCKED
    ann.clock.advance(1)
    assert ann.gives(wrong(ann.clock.now())) is Reason.CODE_LOCKED  # the sixth
    ann.clock.advance(CLOSED_FOR.total_seconds())
    assert ann.gives(ann.code()) is None
    assert ann.row is not None
    assert (ann.row.failures, ann.row.failed_at) == (0, None)


def test_it_says_when_it_opens() -> None:
    ann = Person()
    for _ in range(MOST_FAILURES):
        ann.gives(wrong(ann.clock.now()))
    ann.clock.advance(60)
    verdict = FACTORS.look(ann.operator, ann.row, "123456", ann.clock.moment())
    assert isinstance(verdict, Refused)
    assert verdict.error.retry_after == CLOSED_FOR - timedelta(seconds=60)


def test_a_clock_that_is_set_opens_nothing() -> None:
    ann = Person()
    for _ in range(MOST_FAILURES):
        ann.gives(wrong(ann.clock.now()))
    ann.clock.set_wall(ann.clock.now() + timedelta(days=1))
    assert ann.gives(ann.code()) is Reason.CODE_LOCKED


def test_a_mutant_that_counts_nothing_lets_a_guesser_go_on() -> None:
    ann = Person(mutant(second_factor, "failures=known.failures + 1", "failures=known.failures"))
    assert {ann.gives(wrong(ann.clock.now())) for _ in range(20)} == {Reason.CODE_WRONG}


def test_a_replay_is_not_a_guess() -> None:
    ann = Person()
    text = ann.code()
    ann.gives(text)
    assert [ann.gives(text) for _ in range(9)] == [Reason.CODE_REPLAYED] * 9


def test_another_secret_starts_anew_and_the_same_one_sealed_again_replays_nothing() -> None:
    ann = Person()
    text = ann.code()
    assert ann.gives(text) is None
    for _ in range(MOST_FAILURES):
        ann.gives(wrong(ann.clock.now()))
    ann.operator = replace(ann.operator, second_factor=sealed_for("ann", 2))
    assert ann.gives(text) is Reason.CODE_REPLAYED  # not locked any more, and not taken again
    ann.clock.advance(STEP)
    assert ann.gives(ann.code()) is None
    assert ann.row is not None
    assert ann.row.revision == 2


def test_an_older_revision_that_is_put_back_is_none() -> None:
    ann = Person(second_factor=sealed_for("ann", 2))
    assert ann.gives(ann.code()) is None
    ann.operator = replace(ann.operator, second_factor=sealed_for("ann", 1))
    ann.clock.advance(STEP)
    assert ann.gives(ann.code()) is Reason.SECOND_FACTOR_MISSING


def test_without_one_or_without_the_key_nothing_is_taken() -> None:
    ann = Person(second_factor=None)
    assert ann.gives(ann.code()) is Reason.SECOND_FACTOR_MISSING
    keyless = SecondFactors(lambda: None).look(operator(), None, ann.code(), ann.clock.moment())
    assert isinstance(keyless, Refused)
    assert keyless.error.reason is Reason.SECOND_FACTOR_MISSING


# --- sealing ---


def test_another_operators_secret_does_not_open() -> None:
    bob = Person(name="bob", second_factor=sealed_for("ann"))
    assert bob.gives(bob.code()) is Reason.SECOND_FACTOR_MISSING


def test_a_secret_of_another_revision_does_not_open() -> None:
    ann = Person(second_factor=replace(sealed_for("ann", 1), revision=2))
    assert ann.gives(ann.code()) is Reason.SECOND_FACTOR_MISSING


def test_a_mutant_that_binds_to_nothing_takes_the_secret_of_another() -> None:
    loose = mutant(sealing, 'encode("stepcred-second-factor", operator, str(revision))', 'b""')
    box = loose.SealingKey(bytes(32)).seal("ann", 1, Secret(SECRET))
    assert loose.SealingKey(bytes(32)).open("bob", box).reveal() == SECRET


def test_under_another_key_nothing_opens() -> None:
    with pytest.raises(SealBroken):
        SealingKey(b"\xff" * 32).open("ann", sealed_for("ann"))


@given(place=st.integers(min_value=0), bit=st.integers(0, 7))
def test_a_changed_bit_is_seen(place: int, bit: int) -> None:
    raw = bytearray(b64decode(sealed_for("ann").text))
    raw[place % len(raw)] ^= 1 << bit
    with pytest.raises(SealBroken):
        KEY.open("ann", Sealed(revision=1, text=b64encode(bytes(raw)).decode()))


@given(text=st.text(max_size=600))
def test_whatever_stands_there_is_an_answer(text: str) -> None:
    with pytest.raises(SealBroken):
        KEY.open("ann", Sealed(revision=1, text=text))


def test_two_sealings_of_one_secret_differ_and_neither_shows_it() -> None:
    first, second = sealed_for("ann"), sealed_for("ann")
    assert first.text != second.text
    assert SECRET.encode() not in b64decode(first.text)
    assert len(first.text) == 84


def test_a_new_factor_opens_for_its_operator_and_its_codes_are_taken() -> None:
    ann = Person()
    ann.row = SecondFactor(operator="ann", revision=4)
    new = FACTORS.make(ann.operator, ann.row, issuer="stepcred prod")
    assert new.revision == 5
    app = pyotp.parse_uri(new.uri.reveal())
    assert isinstance(app, pyotp.TOTP)
    assert (app.name, app.issuer, app.digits, app.interval) == ("ann", "stepcred prod", 6, 30)
    ann.operator = replace(ann.operator, second_factor=Sealed(revision=5, text=new.sealed))
    assert ann.gives(app.at(ann.clock.now())) is None
    assert app.secret not in repr(new)


def test_without_a_key_none_is_made() -> None:
    with pytest.raises(BrokerError) as caught:
        SecondFactors(lambda: None).make(operator(), None, issuer="x")
    assert caught.value.reason is Reason.SECOND_FACTOR_MISSING


def test_a_key_file_is_private_and_never_written_over(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / "factors.key"
    generate_key(path)
    assert secret_problem(path) is None
    key = parse_key(path.read_bytes())
    assert key.open("ann", key.seal("ann", 1, Secret(SECRET))).reveal() == SECRET
    assert repr(key) == "SealingKey(…)"
    with pytest.raises(FileExistsError):
        generate_key(path)


@pytest.mark.parametrize("raw", [b"", b"short", b"x" * 33, b64encode(b"x" * 31), b64encode(b"x" * 33), b"\xff" * 31])
def test_what_is_no_key_is_said_without_showing_it(raw: bytes) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_key(raw)
    assert caught.value.problems == ["is no sealing key: 32 bytes, as they are or in base64"]


# --- in the store ---


async def test_two_uses_of_one_code_at_once_are_one(tmp_path: Path) -> None:
    store = open_store(tmp_path / "stepcred.db")
    await store.write(lambda tx: tx.start_epoch(replica="a", boot_id="boot", expires_boot=15.0, at=NOW))
    now = FakeClock().moment()
    text = code(now.wall)
    try:
        said = await asyncio.gather(
            *(store.write(lambda tx: FACTORS.check(tx, operator(), text, now)) for _ in range(50))
        )
    finally:
        await store.close()
    assert sum(error is None for error in said) == 1
    assert {error.reason for error in said if error is not None} == {Reason.CODE_REPLAYED}


async def test_wrong_ones_stay_counted_over_a_restart_and_hold_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "stepcred.db"
    clock = FakeClock()
    for attempt in range(MOST_FAILURES):
        store = open_store(path)
        await store.write(lambda tx: tx.start_epoch(replica="a", boot_id="boot", expires_boot=15.0, at=NOW))
        error = await store.write(lambda tx: FACTORS.check(tx, operator(), wrong(clock.now()), clock.moment()))
        await store.close()
        assert error is not None
        assert error.reason is (Reason.CODE_LOCKED if attempt == MOST_FAILURES - 1 else Reason.CODE_WRONG)


async def test_the_database_holds_no_secret(tmp_path: Path) -> None:
    store = open_store(tmp_path / "stepcred.db")
    await store.write(lambda tx: tx.start_epoch(replica="a", boot_id="boot", expires_boot=15.0, at=NOW))
    who, now = operator(), FakeClock().moment()
    assert who.second_factor is not None
    assert await store.write(lambda tx: FACTORS.check(tx, who, code(now.wall), now)) is None
    await store.close()
    held = b"".join(await asyncio.to_thread(_contents, tmp_path))
    assert b"ann" in held
    assert SECRET.encode() not in held
    assert who.second_factor.text.encode() not in held
