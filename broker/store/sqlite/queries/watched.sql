-- name: stuck_leases
SELECT provider, state, count(*) AS leases FROM leases INDEXED BY leases_due
WHERE state IN ('REVOKING', 'IN_DOUBT')
    AND (json_extract(refs, '$.alarmed') OR (state = 'IN_DOUBT' AND intent_at <= :doubtful_since))
GROUP BY provider, state;

-- name: next_charged_key
-- One step down the index for each key: the charges themselves are not read.
SELECT min(hour_key) AS hour_key FROM charges INDEXED BY charges_counted WHERE hour_key > :after AND returned = 0;

-- name: recent_charges
SELECT count(*) AS charges FROM charges INDEXED BY charges_counted
WHERE hour_key = :hour_key AND at >= :since AND returned = 0;

-- name: one_charge
SELECT key FROM charges WHERE hour_key = :hour_key AND at >= :since AND returned = 0 ORDER BY at LIMIT 1;

-- name: usual_charges
SELECT count(*) AS charges, count(DISTINCT at / 3600000000) AS hours FROM charges INDEXED BY charges_counted
WHERE hour_key = :hour_key AND at >= :since AND at < :until AND returned = 0;
