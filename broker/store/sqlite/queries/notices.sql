-- name: fire
INSERT INTO alerts (fingerprint, rule, labels, summary, since, last_at, count, serial, resolved_at)
VALUES (:fingerprint, :rule, :labels, :summary, :at, :at, 1, 1, NULL)
ON CONFLICT (fingerprint) DO UPDATE SET
    summary = excluded.summary, since = excluded.since, last_at = excluded.last_at, count = 1, serial = serial + 1,
    resolved_at = NULL;

-- name: fires_on
UPDATE alerts SET summary = :summary, last_at = max(last_at, :at), count = count + 1
WHERE fingerprint = :fingerprint AND resolved_at IS NULL;

-- name: resolve_alert
UPDATE alerts SET resolved_at = :at, serial = serial + 1 WHERE fingerprint = :fingerprint AND resolved_at IS NULL;

-- name: alert
SELECT * FROM alerts WHERE fingerprint = :fingerprint;

-- name: firing
SELECT * FROM alerts INDEXED BY alerts_firing WHERE resolved_at IS NULL ORDER BY since DESC, fingerprint;

-- name: firing_counts
SELECT rule, count(*) AS alerts FROM alerts INDEXED BY alerts_firing WHERE resolved_at IS NULL GROUP BY rule;

-- name: resolved
SELECT * FROM alerts INDEXED BY alerts_resolved WHERE resolved_at IS NOT NULL
ORDER BY resolved_at DESC, fingerprint LIMIT 200;

-- name: forget_deliveries
DELETE FROM deliveries WHERE fingerprint IN (
    SELECT fingerprint FROM alerts WHERE resolved_at < :before ORDER BY resolved_at, fingerprint LIMIT :limit
);

-- name: forget_alerts
DELETE FROM alerts WHERE fingerprint IN (
    SELECT fingerprint FROM alerts WHERE resolved_at < :before ORDER BY resolved_at, fingerprint LIMIT :limit
);

-- name: undelivered
SELECT alerts.*, deliveries.serial AS taken, deliveries.attempts, deliveries.next_try_at
FROM alerts LEFT JOIN deliveries ON deliveries.fingerprint = alerts.fingerprint AND deliveries.sink = :sink
WHERE coalesce(deliveries.serial, 0) < alerts.serial
    AND (coalesce(deliveries.next_try_at, 0) <= :now OR deliveries.next_try_at > :far)
ORDER BY coalesce(alerts.resolved_at, alerts.since), alerts.fingerprint LIMIT :limit;

-- name: put_delivery
INSERT INTO deliveries (sink, fingerprint, serial, attempts, next_try_at)
VALUES (:sink, :fingerprint, :serial, :attempts, :next_try_at)
ON CONFLICT (sink, fingerprint) DO UPDATE SET
    serial = excluded.serial, attempts = excluded.attempts, next_try_at = excluded.next_try_at;

-- name: waiting_for
SELECT alerts.fingerprint, wanted.value AS sink FROM alerts, json_each(:sinks) AS wanted
LEFT JOIN deliveries ON deliveries.fingerprint = alerts.fingerprint AND deliveries.sink = wanted.value
WHERE coalesce(deliveries.serial, 0) < alerts.serial ORDER BY alerts.fingerprint, wanted.value;

-- name: add_notice
INSERT INTO notices (id, target, body, created_at, next_try_at, attempts, sent_at)
VALUES (:id, :target, :body, :created_at, :next_try_at, :attempts, :sent_at);

-- name: due_notices
SELECT * FROM notices WHERE target = :target AND sent_at IS NULL AND (next_try_at <= :now OR next_try_at > :far)
ORDER BY next_try_at, id LIMIT :limit;

-- name: put_notice
UPDATE notices SET next_try_at = :next_try_at, attempts = :attempts, sent_at = :sent_at WHERE id = :id;

-- name: unsent_notices
SELECT target, count(*) AS notices, min(created_at) AS oldest FROM notices INDEXED BY notices_due
WHERE sent_at IS NULL AND target > '' GROUP BY target;

-- name: forget_notices
DELETE FROM notices WHERE sent_at < :before;
