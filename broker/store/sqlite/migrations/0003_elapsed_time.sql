-- Ends by elapsed time (seconds of CLOCK_BOOTTIME): a wall clock that is set, also across a restart, moves none of them.
-- Rows of another boot, and those written before, go by the wall clock.
ALTER TABLE steps ADD COLUMN boot_id TEXT NOT NULL DEFAULT '';
ALTER TABLE steps ADD COLUMN deadline_boot REAL NOT NULL DEFAULT 0;
ALTER TABLE leases ADD COLUMN boot_id TEXT NOT NULL DEFAULT '';
ALTER TABLE leases ADD COLUMN expires_boot REAL NOT NULL DEFAULT 0;
CREATE INDEX leases_active_elapsed ON leases (boot_id, expires_boot) WHERE state = 'ACTIVE';
