"""The append-only, hash-chained record of every decision and state change: the audit log."""
