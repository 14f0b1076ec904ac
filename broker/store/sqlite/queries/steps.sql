-- name: insert_step
INSERT INTO steps (
    id, agent, workflow, run, step, attempt, handle_hash, handle_kid, request_id, scopes, state, opened_at,
    deadline_at, boot_id, deadline_boot, last_heartbeat_at, opened_by, started_at, proven, definition_digest,
    bind, spki_sha256, serial_number, issuer, ended_at, end_reason
) VALUES (
    :id, :agent, :workflow, :run, :step, :attempt, :handle_hash, :handle_kid, :request_id, :scopes, :state, :opened_at,
    :deadline_at, :boot_id, :deadline_boot, :last_heartbeat_at, :opened_by, :started_at, :proven, :definition_digest,
    :bind, :spki_sha256, :serial_number, :issuer, :ended_at, :end_reason
);

-- name: step
SELECT * FROM steps WHERE id = :id;

-- name: step_by_handle
SELECT * FROM steps WHERE handle_hash = :handle_hash;

-- name: latest_attempt
SELECT * FROM steps
WHERE agent = :agent AND workflow = :workflow AND run = :run AND step = :step
ORDER BY attempt DESC LIMIT 1;

-- name: beat
UPDATE steps SET last_heartbeat_at = max(last_heartbeat_at, :at) WHERE id = :id AND state = 'OPEN';

-- name: start_step
UPDATE steps SET started_at = :at, bind = :bind, spki_sha256 = :spki_sha256, serial_number = :serial_number, issuer = :issuer
WHERE id = :id AND state = 'OPEN' AND started_at IS NULL;

-- name: end_step
UPDATE steps SET state = 'ENDED', ended_at = :at, end_reason = :reason WHERE id = :id AND state = 'OPEN';

-- name: open_steps
SELECT * FROM steps WHERE state = 'OPEN' ORDER BY opened_at, rowid;

-- name: open_step_ids
-- Past its deadline: by elapsed time in this boot, else by the wall clock.
SELECT id, CASE WHEN boot_id = :boot_id AND :boot_id <> '' THEN deadline_boot <= :boot ELSE deadline_at <= :now END AS past
FROM steps INDEXED BY steps_open WHERE state = 'OPEN';

-- name: open_steps_of
SELECT * FROM steps INDEXED BY steps_open_by_run
WHERE state = 'OPEN' AND workflow = :workflow AND (:run = '' OR run = :run) ORDER BY opened_at, rowid LIMIT :most;

-- name: open_step_page
SELECT * FROM steps INDEXED BY steps_open
WHERE state = 'OPEN' AND opened_at <= coalesce((SELECT opened_at FROM steps WHERE id = :after), 9223372036854775807)
    AND (opened_at, rowid) < (
        coalesce((SELECT opened_at FROM steps WHERE id = :after), 9223372036854775807),
        coalesce((SELECT rowid FROM steps WHERE id = :after), 9223372036854775807)
    )
ORDER BY opened_at DESC, rowid DESC LIMIT :limit;

-- name: step_page
SELECT * FROM steps WHERE rowid < coalesce((SELECT rowid FROM steps WHERE id = :after), 9223372036854775807)
ORDER BY rowid DESC LIMIT :limit;

-- name: steps_go_on_in
-- No longer than the whole step, however wrong the wall clock is.
UPDATE steps SET boot_id = :boot_id,
    deadline_boot = :boot + min(deadline_at - :now, deadline_at - opened_at) / 1000000.0
WHERE state = 'OPEN' AND boot_id <> :boot_id;

-- name: open_step_count
SELECT count(*) AS steps FROM steps WHERE state = 'OPEN';
