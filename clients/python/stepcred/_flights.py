"""Any number of threads that ask for one thing, one of them that gets it, and the same answer for all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Generic, TypeVar

from stepcred._errors import BrokerUnavailable, DeadlineExceeded, Refused, StepcredError

T = TypeVar("T")


class Flights(Generic[T]):
    """One for each key at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flying: dict[str, Future[T]] = {}

    def join(self, key: str, *, known: Callable[[], T | None], get: Callable[[], T], timeout: float | None) -> T:
        """What is `known`, else what `get` gives to whoever comes first. `timeout`: seconds to wait for another's.

        Raises what `get` raises, and DeadlineExceeded when another's answer does not come in time.
        """
        while True:
            with self._lock:
                if (found := known()) is not None:
                    return found
                flight = self._flying.get(key)
                if flight is None:
                    flight = mine = self._flying[key] = Future()
                    break
            try:
                return flight.result(timeout)
            except CancelledError:
                continue  # whoever asked was interrupted: somebody else asks
            except TimeoutError:
                raise DeadlineExceeded(f"{key}: no answer in time to what another thread asks for") from None
            except StepcredError as error:
                raise for_another(error) from None
        try:
            got = get()
        except Exception as error:
            mine.set_exception(error)
            raise
        except BaseException:  # Ctrl-C, in this thread
            mine.cancel()
            raise
        else:
            mine.set_result(got)
            return got
        finally:
            with self._lock:
                del self._flying[key]


def for_another(error: StepcredError) -> StepcredError:
    """The same answer, for one more to raise: each has its own traceback."""
    return error.again(error.retry_after) if isinstance(error, Refused | BrokerUnavailable) else error
