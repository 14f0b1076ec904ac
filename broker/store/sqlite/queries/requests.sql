-- name: request
SELECT * FROM requests WHERE caller = :caller AND request_id = :request_id;

-- name: insert_request
INSERT INTO requests (
    caller, request_id, method, payload_hash, created_at, keep_until, step_id, lease_id, outcome, reason, message
) VALUES (
    :caller, :request_id, :method, :payload_hash, :created_at, :keep_until, :step_id, :lease_id, :outcome, :reason, :message
);

-- name: finish_request
UPDATE requests SET outcome = :outcome, reason = :reason, message = :message
WHERE caller = :caller AND request_id = :request_id;

-- name: forget_requests
DELETE FROM requests WHERE keep_until < :before;
