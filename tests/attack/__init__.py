"""Attacks on a running daemon, bounded in count and time, while an honest agent goes on calling: `make attack`."""
