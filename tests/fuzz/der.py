"""DER as a tree that can be bent, and written again with lengths that fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

_CONSTRUCTED = 0x20
_LONG = 0x80
_WRAPPED = (0x04, 0x03)  # octet and bit strings often hold DER themselves
MAX_DEPTH = 16


@dataclass(slots=True)
class Node:
    """A tag with its content, or with what is in it."""

    tag: int
    content: bytes = b""
    inside: list[Node] = field(default_factory=list)
    unused: bytes = b""  # of a bit string: the byte before its content

    def write(self) -> bytes:
        body = self.unused + b"".join(one.write() for one in self.inside) if self.inside else self.content
        return bytes([self.tag]) + _length(len(body)) + body

    def all(self) -> list[Node]:
        return [self, *(found for one in self.inside for found in one.all())]


def _length(size: int) -> bytes:
    if size < _LONG:
        return bytes([size])
    raw = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([_LONG | len(raw)]) + raw


def read(data: bytes, depth: int = 0) -> list[Node] | None:
    """The nodes that the bytes are, whole; None when they are not."""
    found: list[Node] = []
    while data:
        head = _head(data)
        if head is None or depth > MAX_DEPTH:
            return None
        start, end = head
        node = Node(tag=data[0], content=data[start:end])
        skip = int(node.tag == 0x03 and node.content[:1] == b"\0")
        if node.tag & _CONSTRUCTED or node.tag in _WRAPPED:
            node.inside = (read(node.content[skip:], depth + 1) if len(node.content) > skip else None) or []
            node.unused = node.content[:skip]
        found.append(node)
        data = data[end:]
    return found


def _head(data: bytes) -> tuple[int, int] | None:
    """Where the first node's content begins and ends."""
    if len(data) < 2 or data[0] & 0x1F == 0x1F:
        return None
    size, start = data[1], 2
    if size & _LONG:
        count = size & 0x7F
        start += count
        if not 0 < count <= 4 or len(data) < start:
            return None
        size = int.from_bytes(data[2:start], "big")
    return (start, start + size) if start + size <= len(data) else None


def bend(data: bytes, rng: Random) -> bytes:
    """Change one node: its tag, its content, its place, or how often it is there."""
    roots = read(data)
    if not roots:
        return data
    every = [node for root in roots for node in root.all()]
    node, other = rng.choice(every), rng.choice(every)
    match rng.randrange(7):
        case 0:
            node.tag = rng.choice((other.tag, rng.randrange(256), node.tag ^ 1 << rng.randrange(8)))
        case 1 if node.inside:
            node.inside.insert(rng.randrange(len(node.inside) + 1), Node(tag=other.tag, content=other.write()[2:]))
        case 2 if node.inside:
            del node.inside[rng.randrange(len(node.inside))]
        case 3 if node.inside:
            node.inside.append(rng.choice(node.inside))
        case 4 if not node.inside and node.content:
            at = rng.randrange(len(node.content))
            node.content = node.content[:at] + bytes([rng.randrange(256)]) + node.content[at + 1 :]
        case 5 if not node.inside:
            node.content = rng.choice((b"", node.content * 2, node.content[:-1], other.content, node.content + b"\0"))
        case _:
            node.tag, node.content = other.tag, other.content
            node.inside, node.unused = ([], b"") if node in other.all() else (other.inside, other.unused)
    return b"".join(root.write() for root in roots)
