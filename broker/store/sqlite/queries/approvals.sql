-- name: insert_approval
INSERT INTO approvals (
    id, agent, workflow, run, step, scope, step_id, launcher, address, workload, captures, tier, rule, ttl, digest, needed, state,
    requested_at, expires_at, boot_id, expires_boot, decided_at, lease_id
) VALUES (
    :id, :agent, :workflow, :run, :step, :scope, :step_id, :launcher, :address, :workload, :captures, :tier, :rule, :ttl,
    :digest, :needed, :state, :requested_at, :expires_at, :boot_id, :expires_boot, :decided_at, :lease_id
);

-- name: approval
SELECT * FROM approvals WHERE id = :id;

-- name: open_approval
SELECT * FROM approvals
WHERE agent = :agent AND workflow = :workflow AND run = :run AND step = :step AND scope = :scope
    AND state IN ('PENDING', 'APPROVED');

-- name: open_approvals
SELECT * FROM approvals INDEXED BY approvals_open
WHERE state IN ('PENDING', 'APPROVED') AND state IN (SELECT value FROM json_each(:states))
    AND (requested_at, id) < (coalesce((SELECT requested_at FROM approvals WHERE id = :after), 9223372036854775807), :after)
ORDER BY requested_at DESC, id DESC LIMIT :limit;

-- name: open_approval_count
SELECT count(*) AS approvals FROM approvals WHERE agent = :agent AND state IN ('PENDING', 'APPROVED');

-- name: put_approval
UPDATE approvals SET
    agent = :agent, workflow = :workflow, run = :run, step = :step, scope = :scope, step_id = :step_id,
    launcher = :launcher, address = :address, workload = :workload, captures = :captures, tier = :tier, rule = :rule, ttl = :ttl,
    digest = :digest, needed = :needed, state = :state, requested_at = :requested_at, expires_at = :expires_at,
    boot_id = :boot_id, expires_boot = :expires_boot, decided_at = :decided_at, lease_id = :lease_id
WHERE id = :id;

-- name: approvals
SELECT * FROM approvals
WHERE (requested_at, id) < (coalesce((SELECT requested_at FROM approvals WHERE id = :after), 9223372036854775807), :after)
    AND state IN (SELECT value FROM json_each(:states))
ORDER BY requested_at DESC, id DESC LIMIT :limit;

-- name: approvals_past
-- By whichever clock says so first; elapsed time only within the boot that it was counted in.
SELECT * FROM approvals
WHERE id IN (
    SELECT id FROM approvals INDEXED BY approvals_open_end
    WHERE state IN ('PENDING', 'APPROVED') AND expires_at <= :now
    UNION
    SELECT id FROM approvals INDEXED BY approvals_open_elapsed
    WHERE state IN ('PENDING', 'APPROVED') AND boot_id = :boot_id AND expires_boot <= :boot AND :boot_id <> ''
)
ORDER BY expires_at, id LIMIT :limit;

-- name: waiting_approvals
SELECT * FROM approvals INDEXED BY approvals_waiting
WHERE state = 'PENDING' AND (requested_at <= :before OR requested_at > :now) ORDER BY requested_at, id LIMIT :limit;

-- name: approval_counts
SELECT state, count(*) AS approvals FROM approvals INDEXED BY approvals_open
WHERE state IN ('PENDING', 'APPROVED') GROUP BY state;

-- name: add_vote
INSERT INTO votes (approval_id, operator, approve, reason, at, good_for)
VALUES (:approval_id, :operator, :approve, :reason, :at, :good_for);

-- name: votes
SELECT * FROM votes WHERE approval_id = :approval_id ORDER BY at, operator;
