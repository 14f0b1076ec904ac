-- The guard's own time: it passes as the machine's boot time does, so that a wall clock that is moved opens nothing.

CREATE TABLE guard_clock (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    at INTEGER NOT NULL, -- guard time when it was last looked at
    wall INTEGER NOT NULL, -- what the clocks said then
    boot REAL NOT NULL, -- seconds of CLOCK_BOOTTIME
    boot_id TEXT NOT NULL
) STRICT;

-- Times of the rows that are there are wall times: it goes on from the latest of them.
INSERT INTO guard_clock (only, at, wall, boot, boot_id)
SELECT 1, max(refilled_at), max(refilled_at), 0.0, '' FROM guard HAVING max(refilled_at) IS NOT NULL;

ALTER TABLE guard ADD COLUMN reset_by TEXT NOT NULL DEFAULT '';
ALTER TABLE guard ADD COLUMN reset_at INTEGER;

DROP INDEX guard_by_hour_key; -- nothing looks for it

CREATE INDEX guard_closed ON guard (key, state) WHERE state <> 'OPEN';

-- Of scopes with a limit over all agents; NULL for all others, which cost nothing then.
ALTER TABLE charges ADD COLUMN shared TEXT;

-- `returned` is in both so that a query of the window reads the index alone: else it looks at each charge itself.
CREATE INDEX charges_shared ON charges (shared, at, returned) WHERE shared IS NOT NULL AND returned = 0;
DROP INDEX charges_counted;
CREATE INDEX charges_counted ON charges (hour_key, at, returned) WHERE returned = 0;
