"""`python -m tests.attack.peers RECIPE`, in a network of its own: how many connections of each peer get through."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

PORT = 8443
TRIES = 90
GREEDY4, HONEST4, GREEDY6, HONEST6 = "127.0.0.2", "127.0.0.3", "fd00:0:0:1::2", "fd00:0:0:2::2"


def connected(source: str, tries: int, held: list[socket.socket]) -> int:
    """How many of so many, at once, from this address. One that is dropped is given up soon."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    host = "fd00:0:0:1::1" if ":" in source else "127.0.0.1"
    made = 0
    for _ in range(tries):
        client = socket.socket(family)
        client.settimeout(0.2)
        client.bind((source, 0))
        try:
            client.connect((host, PORT))
        except OSError:
            client.close()
            continue
        held.append(client)
        made += 1
    return made


def main() -> int:
    for command in (
        "ip link set lo up",
        "ip addr add fd00:0:0:1::1/128 dev lo",
        f"ip addr add {GREEDY6}/128 dev lo",
        "ip addr add fd00:0:0:1::3/128 dev lo",
        f"ip addr add {HONEST6}/128 dev lo",
        f"nft -f {sys.argv[1]}",
    ):
        subprocess.run(command.split(), check=True, timeout=10)
    server = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True, backlog=500)
    held: list[socket.socket] = []
    told = {
        "greedy": connected(GREEDY4, TRIES, held),
        "honest": connected(HONEST4, 10, held),
        "greedy6": connected(GREEDY6, 40, held) + connected("fd00:0:0:1::3", 50, held),
        "honest6": connected(HONEST6, 10, held),
    }
    while held:
        held.pop().close()
    for _ in range(sum(told.values())):  # both ends, or the kernel still counts them
        server.accept()[0].close()
    told["later"] = connected(HONEST4, 10, held)
    told["too fast"] = 200 - connected("127.0.0.4", 200, held)
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
