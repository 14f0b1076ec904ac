-- Of a step that a launcher opens, the workload is not heard before its first call. So far every agent opened its own.
ALTER TABLE steps ADD COLUMN started_at INTEGER;
UPDATE steps SET started_at = opened_at;
-- Where a credential was asked for: whether it would still be given may depend on it.
ALTER TABLE leases ADD COLUMN address TEXT NOT NULL DEFAULT '';
