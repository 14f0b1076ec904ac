-- Locks, cool-downs and the rolling hour also go by elapsed time: a wall clock that is moved opens nothing.

ALTER TABLE guard ADD COLUMN boot_id TEXT NOT NULL DEFAULT '';
ALTER TABLE guard ADD COLUMN until_boot REAL NOT NULL DEFAULT 0.0; -- `until`, in seconds of that boot's CLOCK_BOOTTIME
ALTER TABLE guard ADD COLUMN reset_by TEXT NOT NULL DEFAULT '';
ALTER TABLE guard ADD COLUMN reset_at INTEGER;

CREATE INDEX guard_closed ON guard (key, state) WHERE state <> 'OPEN';

ALTER TABLE charges ADD COLUMN boot_id TEXT NOT NULL DEFAULT '';
ALTER TABLE charges ADD COLUMN boot REAL NOT NULL DEFAULT 0.0;
-- Of scopes with a limit over all agents; NULL for all others, which cost nothing then.
ALTER TABLE charges ADD COLUMN shared TEXT;

CREATE INDEX charges_shared ON charges (shared, at) WHERE shared IS NOT NULL AND returned = 0;
