-- name: insert_lease
INSERT INTO leases (
    id, step_id, agent, request_id, scope, provider, params, tier, revocability, state, epoch, policy_generation,
    nonce, kid, guard_key, intent_at, expires_at, boot_id, expires_boot, address,
    spki_sha256, serial_number, issuer, refs, active_at, claimed_at, doomed_at, end_reason, revoking_at,
    ended_at, evidence, replaces, replaced_by, approval_id, approval_digest, first_mint_at, successor_no, attempts,
    next_try_at, last_problem
) VALUES (
    :id, :step_id, :agent, :request_id, :scope, :provider, :params, :tier, :revocability, :state, :epoch, :policy_generation,
    :nonce, :kid, :guard_key, :intent_at, :expires_at, :boot_id, :expires_boot, :address,
    :spki_sha256, :serial_number, :issuer, :refs, :active_at, :claimed_at, :doomed_at, :end_reason, :revoking_at,
    :ended_at, :evidence, :replaces, :replaced_by, :approval_id, :approval_digest, :first_mint_at, :successor_no, :attempts,
    :next_try_at, :last_problem
);

-- name: lease
SELECT * FROM leases WHERE id = :id;

-- name: leases_of
SELECT * FROM leases WHERE step_id = :step_id AND state IN (SELECT value FROM json_each(:states)) ORDER BY rowid LIMIT :most;

-- name: leases_in
SELECT * FROM leases WHERE state IN (SELECT value FROM json_each(:states)) ORDER BY rowid;

-- name: lease_page
SELECT rowid AS position, * FROM leases INDEXED BY leases_by_state
WHERE state = :state AND rowid > :after ORDER BY rowid LIMIT :limit;

-- name: high_lease_page
SELECT rowid AS position, * FROM leases INDEXED BY leases_live_high
WHERE state = :state AND rowid > :after AND tier = 'high' AND state IN ('INTENT', 'IN_DOUBT', 'ACTIVE')
ORDER BY rowid LIMIT :limit;

-- name: known_children
SELECT child.value AS child FROM leases, json_each(leases.refs, '$.children') AS child
WHERE leases.state IN ('INTENT', 'ACTIVE', 'REVOKING', 'IN_DOUBT') AND leases.provider = :provider;

-- name: newest_live_leases
SELECT * FROM leases INDEXED BY leases_by_state
WHERE state IN ('INTENT', 'ACTIVE', 'REVOKING', 'IN_DOUBT')
    AND rowid < coalesce((SELECT rowid FROM leases WHERE id = :after), 9223372036854775807)
ORDER BY rowid DESC LIMIT :limit;

-- name: newest_leases
SELECT * FROM leases WHERE rowid < coalesce((SELECT rowid FROM leases WHERE id = :after), 9223372036854775807)
ORDER BY rowid DESC LIMIT :limit;

-- name: lease_counts_by_provider
SELECT provider, state, count(*) AS leases FROM leases
WHERE state IN ('INTENT', 'ACTIVE', 'REVOKING', 'IN_DOUBT') GROUP BY provider, state;

-- name: lease_counts
SELECT state, count(*) AS leases FROM leases
WHERE state IN ('INTENT', 'ACTIVE', 'REVOKING', 'IN_DOUBT') GROUP BY state;

-- name: revoking_since
-- What ends by time is to be dead by its bound, and no earlier.
SELECT count(*) AS leases, min(since) AS oldest FROM (
    SELECT CASE WHEN revocability IN ('DENY_POLICY', 'EXPIRY_ONLY') THEN max(revoking_at, expires_at)
        ELSE revoking_at END AS since
    FROM leases WHERE state = 'REVOKING'
) WHERE since <= :before;

-- name: due_leases
SELECT * FROM leases INDEXED BY leases_due
WHERE state IN ('REVOKING', 'IN_DOUBT') AND next_try_at <= :now
    AND (tier = 'high' OR provider NOT IN (SELECT value FROM json_each(:without)))
    AND id NOT IN (SELECT value FROM json_each(:but))
ORDER BY tier <> 'high', next_try_at, rowid LIMIT :limit;

-- name: make_due
UPDATE leases SET next_try_at = :at
WHERE state IN ('REVOKING', 'IN_DOUBT') AND next_try_at > :at
    AND (:provider = '' OR provider = :provider)
    AND (:only IS NULL OR id IN (SELECT value FROM json_each(:only)));

-- name: leases_go_on_in
-- No longer than the whole life, however wrong the wall clock is.
UPDATE leases SET boot_id = :boot_id,
    expires_boot = :boot + min(expires_at - :now, expires_at - intent_at) / 1000000.0
WHERE state = 'ACTIVE' AND boot_id <> :boot_id;

-- name: live_past
-- Those of this boot by elapsed time; the others, and all where no boot is known, by the wall clock.
SELECT id FROM (
    SELECT id, expires_at FROM leases INDEXED BY leases_active_elapsed
    WHERE state = 'ACTIVE' AND boot_id = :boot_id AND expires_boot <= :boot AND :boot_id <> ''
    UNION ALL
    SELECT id, expires_at FROM leases INDEXED BY leases_active
    WHERE state = 'ACTIVE' AND expires_at <= :now AND (boot_id <> :boot_id OR :boot_id = '')
) ORDER BY expires_at, id;

-- name: unclaimed
SELECT id FROM leases INDEXED BY leases_unclaimed
WHERE state = 'ACTIVE' AND claimed_at IS NULL ORDER BY active_at, rowid;

-- name: activate
UPDATE leases SET state = 'ACTIVE', active_at = :at, first_mint_at = coalesce(first_mint_at, :at), refs = :refs
WHERE id = :id AND state = 'INTENT' AND epoch = :epoch AND doomed_at IS NULL;

-- name: touch_intent
-- Changes nothing; tells whether the row may still be noted on.
UPDATE leases SET refs = refs WHERE id = :id AND state = 'INTENT' AND epoch = :epoch;

-- name: refs
SELECT refs FROM leases WHERE id = :id;

-- name: set_refs
UPDATE leases SET refs = :refs WHERE id = :id;

-- name: doom
UPDATE leases SET doomed_at = :at, end_reason = coalesce(end_reason, :reason)
WHERE id = :id AND state IN ('INTENT', 'IN_DOUBT') AND doomed_at IS NULL;

-- name: to_in_doubt
UPDATE leases SET state = 'IN_DOUBT', next_try_at = :at, last_problem = :problem
WHERE id = :id AND state = 'INTENT';

-- name: to_revoking
-- A new kind of work: its backoff starts afresh.
UPDATE leases SET
    state = 'REVOKING', revoking_at = :at, next_try_at = :at, end_reason = coalesce(end_reason, :reason),
    attempts = 0, last_problem = ''
WHERE id = :id AND state IN ('ACTIVE', 'INTENT', 'IN_DOUBT');

-- name: to_ended
UPDATE leases SET state = :state, evidence = :evidence, ended_at = :at, nonce = x'', next_try_at = NULL
WHERE id = :id AND EXISTS (SELECT 1 FROM lease_moves WHERE src = leases.state AND dst = :state);

-- name: defer
UPDATE leases SET attempts = attempts + 1, next_try_at = :next_try_at, last_problem = :problem
WHERE id = :id AND state IN ('REVOKING', 'IN_DOUBT');

-- name: claim
UPDATE leases SET claimed_at = :at WHERE id = :id AND state = 'ACTIVE' AND claimed_at IS NULL;

-- name: set_replaced_by
UPDATE leases SET replaced_by = :successor WHERE id = :id AND state = 'ACTIVE' AND replaced_by IS NULL;

-- name: clear_replaced_by
UPDATE leases SET replaced_by = NULL WHERE id = :id AND replaced_by = :successor;
