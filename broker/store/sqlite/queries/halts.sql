-- name: add_freeze
INSERT INTO freezes (id, by, reason, at, agent, workflow, run, scope, provider)
VALUES (:id, :by, :reason, :at, :agent, :workflow, :run, :scope, :provider)
ON CONFLICT (id) DO NOTHING;

-- name: remove_freeze
DELETE FROM freezes WHERE id = :id;

-- name: freezes
SELECT * FROM freezes ORDER BY at, id;

-- name: add_review
INSERT INTO reviews (id, kind, about, by, reason, at, closed_by, closed_at, note)
VALUES (:id, :kind, :about, :by, :reason, :at, :closed_by, :closed_at, :note);

-- name: review
SELECT * FROM reviews WHERE id = :id;

-- name: close_review
UPDATE reviews SET closed_by = :by, closed_at = :at, note = :note WHERE id = :id AND closed_at IS NULL;

-- name: reviews
SELECT * FROM reviews WHERE closed_at IS NULL OR :closed_too ORDER BY at DESC, id LIMIT 200;

-- name: second_factor
SELECT * FROM second_factors WHERE operator = :operator;

-- name: put_second_factor
INSERT INTO second_factors (operator, revision, last_step, failures, failed_at, boot_id, failed_boot)
VALUES (:operator, :revision, :last_step, :failures, :failed_at, :boot_id, :failed_boot)
ON CONFLICT (operator) DO UPDATE SET
    revision = excluded.revision, last_step = excluded.last_step, failures = excluded.failures,
    failed_at = excluded.failed_at, boot_id = excluded.boot_id, failed_boot = excluded.failed_boot;
