"""Loopback listener for probes and metrics."""
