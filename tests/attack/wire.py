"""HTTP/2 without a library's good manners: frames as bytes, sent as fast as the daemon takes them."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

from hpack import Decoder, Encoder
from hyperframe.frame import DataFrame, Frame, HeadersFrame, PingFrame, SettingsFrame, WindowUpdateFrame

from tests.attack.target import Target

SERVICE = "/stepcred.v1.CredentialBroker/"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WAIT = 10.0  # seconds for a handshake, or for a peer that takes no more bytes
LINGER = 1.0  # seconds for the last answers, before the connection is torn down
HEAD = 9  # bytes before a frame's payload
END_STREAM = 0x1
ACK = 0x1
DATA, HEADERS, RST_STREAM, PING, GOAWAY = 0x0, 0x1, 0x3, 0x6, 0x7
GONE = (OSError, ssl.SSLError, TimeoutError, asyncio.IncompleteReadError, EOFError)


def headers_of(method: str, **more: str) -> list[tuple[str, str]]:
    """Of one call."""
    return [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", SERVICE + method),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *((name.replace("_", "-"), value) for name, value in more.items()),
    ]


def block_of(headers: list[tuple[str, str]]) -> bytes:
    """HPACK, stateless: good on any connection at any time."""
    encoder = Encoder()
    encoder.header_table_size = 0
    return bytes(encoder.encode(headers, huffman=False))


def message(body: bytes, *, compressed: bool = False) -> bytes:
    """gRPC's five bytes, and the message."""
    return bytes([compressed]) + len(body).to_bytes(4, "big") + body


def call(stream: int, block: bytes, data: bytes | None, *, end: bool = True) -> bytes:
    """The frames of one call."""
    head = HeadersFrame(stream, block, flags=["END_HEADERS"])
    if data is None:
        return bytes(head.serialize())
    return bytes(head.serialize() + frames_of(stream, data, end=end))


def frames_of(stream: int, data: bytes, *, end: bool) -> bytes:
    """DATA frames of at most 16 kB."""
    chunks = [data[at : at + 16384] for at in range(0, len(data), 16384)] or [b""]
    made = [DataFrame(stream, chunk) for chunk in chunks]
    if end:
        made[-1].flags.add("END_STREAM")
    return b"".join(frame.serialize() for frame in made)


def serialized(*frames: Frame) -> bytes:
    return b"".join(frame.serialize() for frame in frames)


@dataclass
class Peer:
    """One connection. `seen` counts what came back."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    seen: Counter[str] = field(default_factory=Counter)
    closed: bool = False
    decoder: Decoder = field(default_factory=Decoder)

    async def send(self, data: bytes) -> None:
        """Raises one of GONE when the daemon has had enough."""
        if self.closed:
            raise EOFError
        self.writer.write(data)
        async with asyncio.timeout(WAIT):
            await self.writer.drain()

    async def listen(self, ended: Callable[[int], None] = lambda _stream: None) -> None:
        """Read until the end, and count; `ended` is called for each stream that ends."""
        try:
            while True:
                head = await self.reader.readexactly(HEAD)
                size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
                payload = await self.reader.readexactly(size)
                if kind == HEADERS:  # each of them, in order: they share a table
                    told = {_text(name): _text(value) for name, value in self.decoder.decode(payload)}
                    if "grpc-status" in told:
                        self.seen[f"grpc-status {told['grpc-status']}"] += 1
                if kind == RST_STREAM:
                    self.seen["reset"] += 1
                if kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM):
                    ended(int.from_bytes(head[5:], "big"))
                elif kind == GOAWAY:
                    self.seen["goaway"] += 1
                elif kind == PING and not flags & ACK:
                    self.writer.write(serialized(PingFrame(0, payload, flags=["ACK"])))
        except GONE:
            self.closed = True


@contextlib.asynccontextmanager
async def peer(target: Target, *, deaf: bool = False, agrees: bool = True) -> AsyncIterator[Peer]:
    """Connected, greeted. `deaf`: never reads. `agrees`: to the daemon's settings. Raises one of GONE.

    Who does not agree may open as many streams as are allowed at once, and no more (measured).
    """
    async with asyncio.timeout(WAIT):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", target.port, ssl=target.context(), server_hostname="localhost"
        )
    made = Peer(reader, writer)
    listening = None if deaf else asyncio.create_task(made.listen())
    try:
        await made.send(PREFACE + serialized(SettingsFrame(0), WindowUpdateFrame(0, 1 << 30)))
        if agrees:
            await made.send(serialized(SettingsFrame(0, flags=["ACK"])))
        yield made
    finally:
        if listening:
            listening.cancel()
        writer.transport.abort()


def streams() -> Iterator[int]:
    """A client's, in order."""
    return iter(range(1, 1 << 31, 2))


async def flood(
    target: Target,
    batch: Callable[[Iterator[int]], bytes],
    *,
    batches: int,
    peers: int,
    deaf: bool = False,
    agrees: bool = True,
) -> Counter[str]:
    """`peers` connections send so many batches each; whoever is thrown out comes back."""
    told: Counter[str] = Counter()

    async def one() -> None:
        left = batches
        while left > 0:
            try:
                async with peer(target, deaf=deaf, agrees=agrees) as connected:
                    told["connections"] += 1
                    ids = streams()
                    try:
                        while left > 0:
                            left -= 1
                            await connected.send(batch(ids))
                            told["batches"] += 1
                            await asyncio.sleep(0)
                        await asyncio.sleep(LINGER)
                    finally:
                        told.update(connected.seen)
            except GONE:
                told["thrown out"] += 1
                left -= 1
                await asyncio.sleep(0.05)

    try:
        async with asyncio.timeout(target.seconds):
            await asyncio.gather(*(one() for _ in range(peers)))
    except TimeoutError:
        pass
    return told


def _text(part: str | bytes) -> str:
    """hpack gives text, and its types say bytes."""
    return part if isinstance(part, str) else part.decode()
