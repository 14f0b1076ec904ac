-- name: guard_row
SELECT * FROM guard WHERE key = :key;

-- name: put_guard_row
INSERT INTO guard (
    key, hour_key, tier, about, spent, admitted, failures, state, until, cool, refilled_at, locked_at, hour_exhausted_at,
    reset_by, reset_at
) VALUES (
    :key, :hour_key, :tier, :about, :spent, :admitted, :failures, :state, :until, :cool, :refilled_at, :locked_at,
    :hour_exhausted_at, :reset_by, :reset_at
)
ON CONFLICT (key) DO UPDATE SET
    hour_key = excluded.hour_key, tier = excluded.tier, about = excluded.about, spent = excluded.spent,
    admitted = excluded.admitted, failures = excluded.failures, state = excluded.state, until = excluded.until,
    cool = excluded.cool, refilled_at = excluded.refilled_at, locked_at = excluded.locked_at,
    hour_exhausted_at = excluded.hour_exhausted_at, reset_by = excluded.reset_by, reset_at = excluded.reset_at;

-- name: guard_page
SELECT * FROM guard WHERE key > :after ORDER BY key LIMIT :limit;

-- name: closed_guard_page
SELECT * FROM guard INDEXED BY guard_closed WHERE key > :after AND state <> 'OPEN' ORDER BY key LIMIT :limit;

-- name: guard_counts
SELECT state, count(*) AS keys FROM guard INDEXED BY guard_closed WHERE state <> 'OPEN' GROUP BY state;

-- name: add_charge
INSERT INTO charges (lease_id, key, hour_key, at, shared) VALUES (:lease_id, :key, :hour_key, :at, :shared);

-- name: return_charge
UPDATE charges SET returned = 1 WHERE lease_id = :lease_id AND returned = 0;

-- name: forget_charges
DELETE FROM charges WHERE lease_id IN (
    SELECT lease_id FROM charges INDEXED BY charges_by_time WHERE at < :before ORDER BY at LIMIT :limit
);

-- name: count_charge
SELECT count(*) AS charges FROM charges WHERE hour_key = :key AND at >= :since AND returned = 0;

-- name: count_shared
SELECT count(*) AS charges FROM charges WHERE shared = :key AND at >= :since AND returned = 0;

-- name: nth_charge
SELECT at FROM charges WHERE hour_key = :key AND at >= :since AND returned = 0 ORDER BY at DESC LIMIT 1 OFFSET :newer;

-- name: nth_shared
SELECT at FROM charges WHERE shared = :key AND at >= :since AND returned = 0 ORDER BY at DESC LIMIT 1 OFFSET :newer;

-- name: guard_clock
SELECT at, wall, boot, boot_id FROM guard_clock WHERE only = 1;

-- name: set_guard_clock
INSERT INTO guard_clock (only, at, wall, boot, boot_id) VALUES (1, :at, :wall, :boot, :boot_id)
ON CONFLICT (only) DO UPDATE SET
    at = excluded.at, wall = excluded.wall, boot = excluded.boot, boot_id = excluded.boot_id;
