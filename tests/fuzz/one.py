"""`python -m tests.fuzz.one TARGET FOLDER MUTANT [libFuzzer's arguments]`: one target, in a process of its own."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from random import Random

import atheris  # type: ignore[import-untyped]  # compiled, and without stubs


def main(name: str, folder: Path, mutant: str, arguments: list[str]) -> None:
    """Fuzz until a limit or a finding; libFuzzer ends the process itself."""
    with atheris.instrument_imports(include=["broker"]):
        from broker.log import configure
        from tests.fuzz.targets import load

        target = load(name)
    configure("critical")

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = Random(seed)
        if target.mutate is None or rng.randrange(2):
            mutated: bytes = atheris.Mutate(data, len(data)) if rng.randrange(4) else atheris.Mutate(data, max_size)
            return mutated
        return target.mutate(data, rng)[:max_size]

    with ExitStack() as stack:
        if mutant:
            stack.enter_context(target.mutants[mutant]())
        check = stack.enter_context(target.ready(folder))
        known = {"custom_mutator": mutate} if target.mutate is not None else {}
        atheris.Setup([sys.argv[0], *arguments], check, **known)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
