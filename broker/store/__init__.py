"""Durable state: steps, leases, guard, idempotency, journal. All SQL is in .sql files."""
