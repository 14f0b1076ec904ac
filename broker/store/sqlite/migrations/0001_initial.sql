-- Times are microseconds since 1970 UTC, JSON is canonical text, enums are their value.
-- The triggers state what no code of ours does: they hold against a bug, not against a person with a shell.

CREATE TABLE control (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    installation TEXT NOT NULL,
    policy_generation INTEGER NOT NULL DEFAULT 0,
    frozen INTEGER NOT NULL DEFAULT 0 CHECK (frozen IN (0, 1))
) STRICT;

INSERT INTO control (id, installation) VALUES (1, lower(hex(randomblob(16))));

CREATE TABLE key_fingerprints (
    kid TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE epochs (
    id INTEGER PRIMARY KEY,
    replica TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    expires_boot REAL NOT NULL -- seconds of CLOCK_BOOTTIME
) STRICT;

CREATE TABLE steps (
    id TEXT NOT NULL UNIQUE,
    agent TEXT NOT NULL,
    workflow TEXT NOT NULL,
    run TEXT NOT NULL,
    step TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    handle_hash BLOB NOT NULL UNIQUE,
    handle_kid TEXT NOT NULL,
    request_id TEXT NOT NULL,
    scopes TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('OPEN', 'ENDED')),
    opened_at INTEGER NOT NULL,
    deadline_at INTEGER NOT NULL,
    last_heartbeat_at INTEGER NOT NULL,
    opened_by TEXT NOT NULL,
    proven INTEGER NOT NULL CHECK (proven IN (0, 1)),
    definition_digest TEXT NOT NULL,
    ended_at INTEGER,
    end_reason TEXT,
    UNIQUE (agent, workflow, run, step, attempt)
) STRICT;

CREATE INDEX steps_open ON steps (opened_at) WHERE state = 'OPEN';

CREATE TRIGGER steps_stay_ended BEFORE UPDATE OF state ON steps
WHEN OLD.state = 'ENDED' AND NEW.state <> 'ENDED'
BEGIN
    SELECT RAISE (ABORT, 'an ended step is never opened again');
END;

CREATE TABLE leases (
    id TEXT NOT NULL UNIQUE,
    step_id TEXT NOT NULL REFERENCES steps (id),
    agent TEXT NOT NULL,
    request_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    provider TEXT NOT NULL,
    params TEXT NOT NULL,
    tier TEXT NOT NULL,
    revocability TEXT NOT NULL,
    state TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    policy_generation INTEGER NOT NULL,
    nonce BLOB NOT NULL,
    kid TEXT NOT NULL,
    guard_key TEXT NOT NULL,
    intent_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    refs TEXT NOT NULL,
    active_at INTEGER,
    claimed_at INTEGER,
    doomed_at INTEGER,
    end_reason TEXT,
    revoking_at INTEGER,
    ended_at INTEGER,
    evidence TEXT,
    replaces TEXT,
    replaced_by TEXT,
    first_mint_at INTEGER,
    successor_no INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    next_try_at INTEGER,
    last_problem TEXT NOT NULL,
    UNIQUE (agent, request_id),
    CHECK (state NOT IN ('REVOKED', 'EXPIRED', 'VOID') OR (evidence IS NOT NULL AND ended_at IS NOT NULL AND nonce = x''))
) STRICT;

CREATE INDEX leases_by_step ON leases (step_id);
CREATE INDEX leases_by_state ON leases (state);
CREATE INDEX leases_active ON leases (expires_at) WHERE state = 'ACTIVE';
CREATE INDEX leases_unclaimed ON leases (active_at) WHERE state = 'ACTIVE' AND claimed_at IS NULL;
CREATE INDEX leases_due ON leases (tier <> 'high', next_try_at) WHERE state IN ('REVOKING', 'IN_DOUBT');

-- The only changes of state there are.
CREATE TABLE lease_moves (
    src TEXT NOT NULL,
    dst TEXT NOT NULL,
    PRIMARY KEY (src, dst)
) STRICT, WITHOUT ROWID;

INSERT INTO lease_moves (src, dst) VALUES
    ('INTENT', 'ACTIVE'),
    ('INTENT', 'REVOKING'),
    ('INTENT', 'VOID'),
    ('INTENT', 'IN_DOUBT'),
    ('ACTIVE', 'REVOKING'),
    ('ACTIVE', 'EXPIRED'),
    ('REVOKING', 'REVOKED'),
    ('REVOKING', 'EXPIRED'),
    ('IN_DOUBT', 'REVOKING'),
    ('IN_DOUBT', 'EXPIRED'),
    ('IN_DOUBT', 'VOID');

CREATE TRIGGER leases_begin_as_intent BEFORE INSERT ON leases
WHEN NEW.state <> 'INTENT'
BEGIN
    SELECT RAISE (ABORT, 'a lease begins as INTENT');
END;

CREATE TRIGGER leases_move_as_drawn BEFORE UPDATE OF state ON leases
WHEN NEW.state <> OLD.state
    AND NOT EXISTS (SELECT 1 FROM lease_moves WHERE src = OLD.state AND dst = NEW.state)
BEGIN
    SELECT RAISE (ABORT, 'this change of a lease''s state is not allowed');
END;

CREATE TRIGGER leases_alive_are_kept BEFORE DELETE ON leases
WHEN OLD.state NOT IN ('REVOKED', 'EXPIRED', 'VOID')
BEGIN
    SELECT RAISE (ABORT, 'a lease that may be alive is never deleted');
END;

CREATE TABLE requests (
    caller TEXT NOT NULL,
    request_id TEXT NOT NULL,
    method TEXT NOT NULL,
    payload_hash BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    keep_until INTEGER NOT NULL,
    step_id TEXT NOT NULL,
    lease_id TEXT NOT NULL,
    outcome TEXT NOT NULL,
    reason TEXT NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (caller, request_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX requests_by_end ON requests (keep_until);

CREATE TABLE guard (
    key TEXT PRIMARY KEY,
    hour_key TEXT NOT NULL,
    tier TEXT NOT NULL,
    about TEXT NOT NULL,
    spent INTEGER NOT NULL,
    admitted INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    state TEXT NOT NULL,
    until INTEGER,
    cool INTEGER NOT NULL, -- microseconds
    refilled_at INTEGER,
    locked_at TEXT NOT NULL,
    hour_exhausted_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX guard_by_hour_key ON guard (hour_key);

CREATE TABLE charges (
    lease_id TEXT PRIMARY KEY,
    key TEXT NOT NULL,
    hour_key TEXT NOT NULL,
    at INTEGER NOT NULL,
    returned INTEGER NOT NULL DEFAULT 0 CHECK (returned IN (0, 1))
) STRICT, WITHOUT ROWID;

CREATE INDEX charges_counted ON charges (hour_key, at) WHERE returned = 0;

CREATE TABLE journal (
    chain INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    body TEXT NOT NULL,
    prev BLOB NOT NULL,
    hash BLOB NOT NULL,
    -- read from the hashed text, so that the two cannot differ
    reference_id TEXT GENERATED ALWAYS AS (json_extract(body, '$.reference_id')) VIRTUAL,
    PRIMARY KEY (chain, seq)
) STRICT, WITHOUT ROWID;

CREATE INDEX journal_by_reference ON journal (reference_id) WHERE reference_id IS NOT NULL;

-- Also keeps INSERT OR REPLACE out, which deletes without firing a delete trigger.
CREATE TRIGGER journal_grows_at_its_end BEFORE INSERT ON journal
WHEN NEW.seq <> (SELECT coalesce(max(seq), -1) + 1 FROM journal WHERE chain = NEW.chain)
BEGIN
    SELECT RAISE (ABORT, 'the journal is append-only');
END;

CREATE TRIGGER journal_is_never_changed BEFORE UPDATE ON journal
BEGIN
    SELECT RAISE (ABORT, 'the journal is append-only');
END;

CREATE TRIGGER journal_is_never_cut BEFORE DELETE ON journal
BEGIN
    SELECT RAISE (ABORT, 'the journal is append-only');
END;
