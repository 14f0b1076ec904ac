"""Group commit: whatever was asked for while the last group was on its way to the disk becomes the next one.

Committing one operation costs 94 µs of CPU and an fsync; in a group of 64 it costs 14 µs (measured).

Two places run operations. *Quick* ones touch a few rows by their keys and run on the event loop, in the group's
transaction; only its COMMIT, which waits for the disk, goes to the writer's thread. All others run on that thread
whole. sqlite3 gives the interpreter's lock away at each statement: on a thread beside a busy event loop each of some
thirty statements waits to get it back, 40 changes of thread an issue (measured), where it waits for nobody here.

One group at a time; whoever has it, from `_turn` to `_landed`, has the connection too:

    submit    IDLE → TURN: the event loop calls `_turn` in its next round
    _turn     TURN → ON_ITS_WAY, on the loop: takes a group. Of quick ones `_begin` and `_run`, here; then `_finish`, on the
              thread, or here when nothing was changed. Of others, and when another process is writing: `_whole`
    _whole    all of it, on the thread
    _finish   COMMIT
    _landed   answers. ON_ITS_WAY → TURN when something waits, else IDLE

After close() there are no turns: the thread takes what still waits, group by group (`_rest`).
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, TypeAlias

from broker.errors import StoreError, StoreFull
from broker.store.base import Tx
from broker.store.sqlite.database import Database
from broker.store.sqlite.reserve import Reserve
from broker.store.sqlite.tx import SqliteTx
from broker.store.sqlite.tx.base import TooLong

Operation: TypeAlias = Callable[[Tx], Any]

QUICK_GROUP = 64  # operations that the event loop runs at once: some ms in which it hears nobody


@dataclass(slots=True, eq=False)
class _Job:
    operation: Operation
    quick: bool
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None

    @property
    def too_long(self) -> bool:
        """It was undone, and is to be run on the thread."""
        return self.quick and isinstance(self.error, TooLong)


class _State(Enum):
    IDLE = "idle"
    TURN = "turn"  # the next group is taken in the event loop's next round
    ON_ITS_WAY = "on its way"  # a group is being run or committed


class Writer:
    """Runs operations in the order in which they were submitted."""

    def __init__(self, database: Database, reserve: Reserve, *, max_group: int) -> None:
        """`database` is the writer's from now on."""
        self._database = database
        self._tx = SqliteTx(database)
        self._reserve = reserve
        self._max_group = max_group
        self.commits = 0  # groups made durable; for metrics
        self.operations = 0  # operations in them, refused ones included
        self._door = threading.Lock()  # of these four
        self._waiting: deque[_Job] = deque()
        self._state = _State.IDLE
        self._loop: asyncio.AbstractEventLoop | None = None  # whose turn it is
        self._closed = False
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        reserve.look()
        # A daemon thread: a process that forgets close() must still be able to exit, and loses nothing answered.
        self._thread = threading.Thread(target=self._main, name="store-writer", daemon=True)
        self._thread.start()

    @property
    def reserve_held(self) -> bool:
        """False: the disk is full."""
        return self._reserve.held

    def submit(self, operation: Operation, *, quick: bool = False) -> asyncio.Future[Any]:
        """Queue it. It runs to its end whatever becomes of the future."""
        loop = asyncio.get_running_loop()
        job = _Job(operation, quick, loop, asyncio.Future(loop=loop))  # a loop's own kind is awaited the slow way
        with self._door:
            if self._closed:
                raise StoreError("the store is closed")
            self._waiting.append(job)
            left_alone = self._state is _State.TURN and self._loop is not None and self._loop.is_closed()
            if self._state is _State.IDLE or left_alone:
                self._state, self._loop = _State.TURN, loop
                loop.call_soon(self._turn)  # not at once: what else this round of the loop asks for goes along
        return job.future

    def close(self) -> None:
        """Finish what was queued. Blocks."""
        with self._door:
            mine = not self._closed and self._state is not _State.ON_ITS_WAY
            self._closed = True
            if mine:
                self._state = _State.ON_ITS_WAY
                self._work.put(self._rest)
        self._thread.join()
        self._database.close()

    def _main(self) -> None:
        while work := self._work.get():
            work()
            del work  # an idle writer keeps nobody's objects alive

    def _turn(self) -> None:
        """On the event loop: the next group. Quick ones are run here and committed there."""
        with self._door:
            if self._state is not _State.TURN:
                return  # closed meanwhile: the thread has it
            self._state = _State.ON_ITS_WAY
            jobs = self._take()
        if jobs[0].quick and self._begin():
            self._run(jobs)
            if self._database.changed:
                self._work.put(partial(self._finish, jobs))
            else:  # refused, or only looked at: nothing waits for the disk
                self._finish(jobs)
        else:
            self._work.put(partial(self._whole, jobs))

    def _take(self) -> list[_Job]:
        """Of one kind and event loop, in order."""
        first = self._waiting.popleft()
        jobs = [first]
        most = min(self._max_group, QUICK_GROUP) if first.quick else self._max_group
        while len(jobs) < most and self._waiting:
            job = self._waiting[0]
            if job.quick is not first.quick or job.loop is not first.loop:
                break
            jobs.append(self._waiting.popleft())
        return jobs

    def _begin(self) -> bool:
        """False when the database is not to be had at once: then the thread waits for it."""
        self._tx.quick = True
        try:
            self._tx.sparing = not self._reserve.look()
            self._tx.start()
        except Exception:  # noqa: BLE001 - whatever it is, the thread's BEGIN says so; a turn that ends here ends them all
            with contextlib.suppress(StoreError):
                self._tx.lose()
            return False
        return True

    def _run(self, jobs: Sequence[_Job]) -> None:
        """Each in its savepoint. Whoever carries the Tx off can do nothing with it afterwards."""
        try:
            for job in jobs:
                _operate(self._database, self._tx, job)
            self._tx.settle()
            self._tx.known.keep()
        except BaseException as error:  # noqa: BLE001 - the whole transaction is gone; every caller is told
            self._give_up(jobs, error)
        self._database.shut()

    def _finish(self, jobs: Sequence[_Job]) -> None:
        """Make it durable. Afterwards each job has its result or its error, and nothing is pending."""
        try:
            self._database.commit()
            self.commits += 1
            self.operations += len(jobs)
        except BaseException as error:  # noqa: BLE001 - the writer survives everything; every caller is told
            self._give_up(jobs, error)
        if self._reserve.held and any(isinstance(job.error, StoreFull) for job in jobs):
            self._reserve.give_back()  # those who end something ask again, and find room
        self._landed(jobs)

    def _whole(self, jobs: Sequence[_Job]) -> None:
        """On the thread: the whole transaction, after whatever another process writes."""
        self._tx.quick = False
        try:
            with self._database.patience():
                self._tx.sparing = not self._reserve.look()
                self._tx.start()
        except BaseException as error:  # noqa: BLE001 - as above
            self._give_up(jobs, error)
            self._landed(jobs)
            return
        self._run(jobs)
        self._finish(jobs)

    def _give_up(self, jobs: Sequence[_Job], error: BaseException) -> None:
        """Nothing of this group was written: whoever was not refused already is told so."""
        problem = error if isinstance(error, StoreError) else StoreError(f"writer: {type(error).__name__}")
        for job in jobs:
            job.result = None
            job.error = job.error or problem
        with contextlib.suppress(StoreError):  # the next BEGIN will say so to the next callers
            self._tx.lose()

    def _landed(self, jobs: Sequence[_Job]) -> None:
        """Answer, and pass the turn on; after close() there is none, and the thread does all that waits."""
        long = [job for job in jobs if job.too_long]
        answered = [job for job in jobs if not job.too_long]
        for job in long:
            job.quick, job.error = False, None
        with self._door:  # also for the answers: whoever goes on by one, and writes again, finds out whose turn it is
            with contextlib.suppress(RuntimeError):  # a closed loop: nobody is waiting
                jobs[0].loop.call_soon_threadsafe(_settle, answered)
            self._waiting.extendleft(reversed(long))
            if not self._closed:
                self._pass_on()
                return
        self._rest()

    def _pass_on(self) -> None:
        """The turn, to the first in the queue whose event loop is there; the jobs of others go along. The door is held."""
        for job in self._waiting:
            with contextlib.suppress(RuntimeError):  # a closed loop
                # A round later than the answers: whoever goes on by them, and writes again, is in the group already.
                job.loop.call_soon_threadsafe(job.loop.call_soon, self._turn)
                self._state, self._loop = _State.TURN, job.loop
                return
        self._state = _State.IDLE

    def _rest(self) -> None:
        """Once closed: the next group of what is still queued, or the end."""
        jobs = self._take() if self._waiting else []  # nobody else takes or adds any more
        self._work.put(partial(self._whole, jobs) if jobs else None)


def _operate(database: Database, tx: SqliteTx, job: _Job) -> None:
    """One operation in its savepoint. Raises only when the whole transaction is gone."""
    head, tx.touched = tx.head, 0
    database.run("SAVEPOINT operation")
    try:
        job.result = job.operation(tx)
        database.run("RELEASE operation")
        tx.known.keep()
    except BaseException as error:  # noqa: BLE001 - it is the caller's, and is raised there
        job.error = error
        tx.head = head
        tx.known.undo()
        database.run("ROLLBACK TO operation")
        database.run("RELEASE operation")


def _settle(jobs: Sequence[_Job]) -> None:
    for job in jobs:
        future, result, error = job.future, job.result, job.error
        # An error leads to the frames that it came through, and these to the jobs: they must not lead back to it.
        del job.future, job.result, job.error
        if future.done():
            continue  # the caller was cancelled; the effect stands
        if error is None:
            future.set_result(result)
        elif isinstance(error, StopIteration):  # a future cannot carry one
            future.set_exception(RuntimeError("the operation raised StopIteration"))
        else:
            future.set_exception(error)
