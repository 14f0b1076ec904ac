"""Any number of threads that ask for one thing, one of them that gets it, and the same answer for all."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Generic, TypeVar

from stepcred._errors import DeadlineExceeded, StepcredError

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
        mine: Future[T] = Future()
        try:
            while True:
                with self._lock:
                    if (found := known()) is not None:
                        return found
                    flight = self._flying.setdefault(key, mine)
                if flight is mine:
                    mine.set_result(got := get())
                    return got
                try:
                    return flight.result(timeout)
                except CancelledError:
                    continue  # whoever asked was interrupted: somebody else asks
                except TimeoutError:
                    raise DeadlineExceeded(f"{key}: no answer in time to what another thread asks for") from None
                except StepcredError as error:
                    raise for_another(error) from None
        except Exception as error:
            mine.set_exception(error)
            raise
        except BaseException:  # Ctrl-C, in this thread, from the moment on in which others may wait for it
            mine.cancel()
            raise
        finally:
            with self._lock:
                if self._flying.get(key) is mine:
                    del self._flying[key]


def for_another(error: StepcredError) -> StepcredError:
    """The same answer, for one more to raise: each has its own traceback, which grows with each time it is raised."""
    return copy.copy(error)
