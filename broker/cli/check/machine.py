"""Looks at what the machine gives: addresses, open files, room on the disk."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from broker.cli.check.looked import Looked
from broker.config import Config
from broker.config.values import Address
from broker.store.sqlite import reserve

OTHER_FILES = (
    128  # database, logs, libraries, the pools to the providers at rest; counted on a daemon at work: under 80
)
LITTLE_ROOM = 256 << 20  # bytes: a day's journal of a busy broker


def listeners(settings: Config) -> Looked:
    """Can the addresses be bound? In use by the broker of this database is as it should be."""
    errors: list[str] = []
    notes: list[str] = []
    addresses = {"listen.grpc": settings.listen.grpc, "listen.http": settings.listen.http}
    if settings.operators is not None:
        addresses["operators.listen"] = settings.operators.listen
    for option, address in addresses.items():
        try:
            _bind(address)
        except OSError as error:
            running = _broker_of(settings.store.path)
            if error.errno == errno.EADDRINUSE and running:
                notes.append(f"{option} {address}: in use by the broker that runs (process {running})")
            else:
                errors.append(f"{option} {address}: {_why(error)}")
    return Looked(errors=errors, notes=notes)


def _bind(address: Address) -> None:
    family, kind, protocol, _, place = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as trial:
        trial.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as servers do: connections at rest are no hindrance
        trial.bind(place)


def _why(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "in use by another program; ss -ltnp shows it"
        case errno.EADDRNOTAVAIL:
            return "not an address of this machine; ip address shows them"
        case errno.EACCES:
            return "ports below 1024 are for root; take 8443, or give the unit AmbientCapabilities=CAP_NET_BIND_SERVICE"
        case _:
            return error.strerror or "cannot be bound"


def _broker_of(database: Path) -> int:
    """The process in the database's lock file, if it lives; 0 for none. The lock itself is left alone."""
    try:
        process = int(database.with_name(database.name + ".lock").read_text())
        os.kill(process, 0)
    except PermissionError:
        return process  # another user's
    except (OSError, ValueError):
        return 0
    return process


def open_files(settings: Config) -> Looked:
    """Of this shell, to which `serve` raises itself as far as it may; a service has its unit's. A note, therefore."""
    from broker.wiring.listeners import files_reserved

    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    needed = settings.limits.max_connections + files_reserved(settings)
    if allowed == resource.RLIM_INFINITY or allowed >= needed:
        return Looked()
    text = (
        f"{allowed} open files are allowed here, and limits.max_connections and the reserve need {needed}: "
        f"LimitNOFILE={needed} in the unit, ulimit -Hn {needed} in a shell"
    )
    return Looked(notes=[text])


def disk(settings: Config) -> Looked:
    """Room for the database, and for the reserve that keeps revocation alive on a full disk."""
    return Looked(errors=[*_no_room(settings.store.path)], notes=[*_little_room(settings.store.path)])


def _no_room(database: Path) -> Iterator[str]:
    free = _free(database)
    has_reserve = database.with_name(database.name + "-reserve").exists()
    if free < (reserve.LOW if has_reserve else 2 * reserve.SIZE):
        yield f"store.path {database}: {free >> 20} MiB are free there, and nothing can be minted; make room"


def _little_room(database: Path) -> Iterator[str]:
    free = _free(database)
    if 2 * reserve.SIZE <= free < LITTLE_ROOM:
        yield f"store.path {database}: {free >> 20} MiB are free there"


def _free(database: Path) -> int:
    """Bytes that this user may write."""
    return shutil.disk_usage(database.parent).free
