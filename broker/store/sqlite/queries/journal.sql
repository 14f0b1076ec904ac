-- name: append
INSERT INTO journal (chain, seq, body, prev, hash) VALUES (:chain, :seq, :body, :prev, :hash);

-- name: journal_head
SELECT chain, seq, hash FROM journal ORDER BY chain DESC, seq DESC LIMIT 1;

-- name: journal
SELECT chain, seq, body, prev, hash FROM journal
WHERE (chain, seq) > (:chain, :seq) ORDER BY chain, seq LIMIT :limit;

-- name: last_of_journal
SELECT chain, seq, body, prev, hash FROM journal ORDER BY chain DESC, seq DESC LIMIT :limit;

-- name: journal_of_run
SELECT chain, seq, body, prev, hash FROM journal WHERE run = :run
    OR step_id IN (SELECT step_id FROM journal WHERE run = :run AND step_id IS NOT NULL)
ORDER BY chain, seq LIMIT :limit;

-- name: journal_of_step
SELECT chain, seq, body, prev, hash FROM journal WHERE step_id = :step_id ORDER BY chain, seq LIMIT :limit;

-- name: denial
SELECT chain, seq, body, prev, hash FROM journal WHERE reference_id = :reference_id ORDER BY chain, seq LIMIT 1;

-- name: journal_of_reference
SELECT chain, seq, body, prev, hash FROM journal
WHERE reference_id = :reference_id ORDER BY chain, seq LIMIT :limit;
