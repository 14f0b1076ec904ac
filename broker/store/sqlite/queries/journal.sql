-- name: append
INSERT INTO journal (chain, seq, body, prev, hash) VALUES (:chain, :seq, :body, :prev, :hash);

-- name: journal_head
SELECT chain, seq, hash FROM journal ORDER BY chain DESC, seq DESC LIMIT 1;

-- name: journal
SELECT chain, seq, body, prev, hash FROM journal
WHERE (chain, seq) > (:chain, :seq) ORDER BY chain, seq LIMIT :limit;

-- name: journal_of_run
SELECT chain, seq, body, prev, hash FROM journal WHERE run = :run ORDER BY chain, seq LIMIT :limit;

-- name: denial
SELECT chain, seq, body, prev, hash FROM journal WHERE reference_id = :reference_id ORDER BY chain, seq LIMIT 1;
