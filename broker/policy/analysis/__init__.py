"""Exact answers about whole maps: who can get what, what a change would do, whether a map only narrows another."""
