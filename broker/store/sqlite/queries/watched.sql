-- name: stuck_leases
SELECT provider, state, count(*) AS leases FROM leases INDEXED BY leases_due
WHERE state IN ('REVOKING', 'IN_DOUBT')
    AND (json_extract(refs, '$.alarmed') OR (state = 'IN_DOUBT' AND intent_at <= :doubtful_since))
GROUP BY provider, state;

-- name: busy_keys
SELECT hour_key, count(*) AS charges FROM charges INDEXED BY charges_by_time
WHERE at >= :since AND returned = 0 GROUP BY hour_key HAVING count(*) >= :at_least ORDER BY hour_key;

-- name: one_charge
SELECT key FROM charges WHERE hour_key = :hour_key AND at >= :since AND returned = 0 ORDER BY at LIMIT 1;

-- name: usual_charges
SELECT count(*) AS charges, count(DISTINCT at / 3600000000) AS hours FROM charges INDEXED BY charges_counted
WHERE hour_key = :hour_key AND at >= :since AND at < :until AND returned = 0;
