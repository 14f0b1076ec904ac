"""Codes of a second factor (TOTP, RFC 6238): each is taken once, and few may be guessed.

A code is text of exactly six ASCII digits: what is trimmed or folded first is counted as one text and compared as
another, which made codes usable twice and guesses uncounted (CVE-2025-6014, -6015). Every wrong one must be *counted*
although what it was to allow is refused: so a verdict is a value with the row to write, and raising is for whoever has
committed it.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeAlias

import pyotp

from broker.clock import Moment
from broker.errors import BrokerError, Reason
from broker.operators.model import Operator
from broker.operators.sealing import SealBroken, SealingKey
from broker.secret import Secret
from broker.store.halts import HaltsTx, SecondFactor

STEP = 30  # seconds (RFC 6238, X)
DIGITS = 6
WINDOW = 1  # steps that a clock may be off, to either side (RFC 6238, section 5.2)
MOST_FAILURES = 5  # wrong ones in a row; from then on each further one closes it again
CLOSED_FOR = timedelta(minutes=15)  # with that, 96 guesses a day of 3 right ones in 10^6: 0.03 % a day
_CODE = re.compile(rf"[0-9]{{{DIGITS}}}", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """The code is good, and used up once `row` is committed."""

    row: SecondFactor


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """It is not. `row` is to be committed all the same; None: nothing changes."""

    error: BrokerError
    row: SecondFactor | None = None


Verdict: TypeAlias = Taken | Refused


@dataclass(frozen=True, kw_only=True, slots=True)
class NewFactor:
    """A secret that was just made. It counts once `sealed` stands in the operators file."""

    uri: Secret  # otpauth://…, for an authenticator app
    sealed: str
    revision: int


class SecondFactors:
    """Checks and makes them, under the sealing key of this moment."""

    def __init__(self, key: Callable[[], SealingKey | None]) -> None:
        self._key = key

    def check(self, tx: HaltsTx, operator: Operator, code: str, now: Moment) -> BrokerError | None:
        """Look, and write what came of it in this transaction. An error must be raised only after the commit."""
        verdict = self.look(operator, tx.second_factor(operator.name), code, now)
        if verdict.row is not None:
            tx.put_second_factor(verdict.row)
        return verdict.error if isinstance(verdict, Refused) else None

    def look(self, operator: Operator, row: SecondFactor | None, code: str, now: Moment) -> Verdict:
        """Judge a code by what is known of the ones before. Pure.

        1. The secret is opened; one that is older than one that was used is none.
        2. While too many were wrong, nothing is compared.
        3. Exactly six digits, compared with every step of the window in constant time.
        4. Not of the last step that was taken, nor of one before it, whatever the clock says.
        """
        known = row or SecondFactor(operator=operator.name, revision=0)
        secret = self._secret(operator, known)
        if isinstance(secret, BrokerError):
            return Refused(error=secret)
        known = self._under(known, operator)
        if (left := _closed_for(known, now)) > timedelta(0):
            return Refused(error=_locked(left))
        if not code:
            return Refused(error=BrokerError(Reason.CODE_WRONG, "a code of the second factor is needed"))
        matching = _steps(secret, code, int(now.wall.timestamp()) // STEP) if _CODE.fullmatch(code) else []
        if not matching:
            return _count(known, now)
        if max(matching) <= known.last_step:
            return Refused(
                error=BrokerError(
                    Reason.CODE_REPLAYED, "this code, or a later one, was used already; wait for the next"
                )
            )
        return Taken(
            row=replace(known, last_step=max(matching), failures=0, failed_at=None, boot_id="", failed_boot=0.0)
        )

    def make(self, operator: Operator, row: SecondFactor | None, *, issuer: str) -> NewFactor:
        """A new secret for this operator; nothing changes by it. Raises BrokerError when there is no key to seal with."""
        key = self._key()
        if key is None:
            raise BrokerError(
                Reason.SECOND_FACTOR_MISSING, "this broker has no operators.second_factor_key_file to seal with"
            )
        used = max(row.revision if row else 0, operator.second_factor.revision if operator.second_factor else 0)
        return new_factor(key, operator.name, used + 1, issuer=issuer)

    def _secret(self, operator: Operator, known: SecondFactor) -> Secret | BrokerError:
        sealed, key = operator.second_factor, self._key()
        if sealed is None or key is None:
            return BrokerError(
                Reason.SECOND_FACTOR_MISSING, "you have no second factor; run `stepcred admin second-factor`"
            )
        if sealed.revision < known.revision:  # an older file was put back, with a secret that was replaced
            return BrokerError(
                Reason.SECOND_FACTOR_MISSING,
                "the operators file holds an older second factor than the one you used last",
            )
        try:
            return key.open(operator.name, sealed)
        except SealBroken:
            return BrokerError(
                Reason.SECOND_FACTOR_MISSING, "your second factor cannot be opened; have a new one sealed"
            )

    @staticmethod
    def _under(known: SecondFactor, operator: Operator) -> SecondFactor:
        """Guesses at another secret count no more. Steps go on: it may be the same secret, sealed again."""
        revision = operator.second_factor.revision if operator.second_factor else 0
        if revision == known.revision:
            return known
        return SecondFactor(operator=known.operator, revision=revision, last_step=known.last_step)


def new_factor(key: SealingKey, operator: str, revision: int, *, issuer: str) -> NewFactor:
    """A secret of 160 bits (RFC 4226, section 4, R6), its address for an app, and the same sealed."""
    secret = Secret(pyotp.random_base32(32))
    uri = pyotp.TOTP(secret.reveal()).provisioning_uri(name=operator, issuer_name=issuer)
    return NewFactor(uri=Secret(uri), sealed=key.seal(operator, revision, secret).text, revision=revision)


def _steps(secret: Secret, code: str, now: int) -> list[int]:
    """Those of the window that this is the code of. Every one is compared, whatever the others say."""
    totp = pyotp.TOTP(secret.reveal(), digits=DIGITS, interval=STEP)
    window = range(max(now - WINDOW, 0), now + WINDOW + 1)
    return [step for step in window if hmac.compare_digest(totp.generate_otp(step), code)]


def _closed_for(known: SecondFactor, now: Moment) -> timedelta:
    """How much longer; by elapsed time, so that no clock that is set opens it."""
    if known.failures < MOST_FAILURES or known.failed_at is None:
        return timedelta(0)
    return CLOSED_FOR - now.since(wall=known.failed_at, boot=known.failed_boot, boot_id=known.boot_id)


def _count(known: SecondFactor, now: Moment) -> Refused:
    """One more; the last ones are told that it is closed."""
    row = replace(known, failures=known.failures + 1, failed_at=now.wall, boot_id=now.boot_id, failed_boot=now.boot)
    if row.failures >= MOST_FAILURES:
        return Refused(error=_locked(CLOSED_FOR), row=row)
    return Refused(error=BrokerError(Reason.CODE_WRONG, "the code is wrong"), row=row)


def _locked(left: timedelta) -> BrokerError:
    return BrokerError(Reason.CODE_LOCKED, "too many wrong codes; try again later", retry_after=left)
