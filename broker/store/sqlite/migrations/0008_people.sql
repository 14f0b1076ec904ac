-- What people decide: approvals and their votes, freezes, reviews, and the codes that were used.

CREATE TABLE approvals (
    id TEXT PRIMARY KEY,
    agent TEXT NOT NULL,
    workflow TEXT NOT NULL,
    run TEXT NOT NULL,
    step TEXT NOT NULL,
    scope TEXT NOT NULL,
    step_id TEXT NOT NULL,
    launcher TEXT NOT NULL,
    address TEXT NOT NULL,
    workload TEXT NOT NULL,
    captures TEXT NOT NULL,
    tier TEXT NOT NULL,
    rule TEXT NOT NULL,
    ttl INTEGER NOT NULL, -- microseconds
    digest TEXT NOT NULL,
    needed INTEGER NOT NULL CHECK (needed > 0),
    state TEXT NOT NULL CHECK (state IN ('PENDING', 'APPROVED', 'CONSUMED', 'DENIED', 'EXPIRED', 'REPLACED')),
    requested_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    boot_id TEXT NOT NULL,
    expires_boot REAL NOT NULL,
    decided_at INTEGER,
    lease_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX approvals_open ON approvals (agent, workflow, run, step, scope)
WHERE state IN ('PENDING', 'APPROVED');

CREATE INDEX approvals_open_end ON approvals (expires_at)
WHERE state IN ('PENDING', 'APPROVED');

CREATE INDEX approvals_open_elapsed ON approvals (boot_id, expires_boot)
WHERE state IN ('PENDING', 'APPROVED');

CREATE INDEX approvals_by_time ON approvals (requested_at, id);

-- What was asked is never changed after: an operator said yes to exactly this.
CREATE TRIGGER approvals_stay_what_they_are BEFORE UPDATE ON approvals
WHEN (NEW.agent, NEW.workflow, NEW.run, NEW.step, NEW.scope, NEW.digest, NEW.needed)
    <> (OLD.agent, OLD.workflow, OLD.run, OLD.step, OLD.scope, OLD.digest, OLD.needed)
BEGIN
    SELECT RAISE (ABORT, 'what was asked to be approved is never changed');
END;

CREATE TRIGGER approvals_are_used_once BEFORE UPDATE OF state ON approvals
WHEN NEW.state = 'CONSUMED' AND OLD.state <> 'APPROVED'
BEGIN
    SELECT RAISE (ABORT, 'only what is approved can be used, and once');
END;

CREATE TABLE votes (
    approval_id TEXT NOT NULL REFERENCES approvals (id),
    operator TEXT NOT NULL,
    approve INTEGER NOT NULL CHECK (approve IN (0, 1)),
    reason TEXT NOT NULL,
    at INTEGER NOT NULL,
    good_for INTEGER, -- microseconds
    PRIMARY KEY (approval_id, operator)
) STRICT, WITHOUT ROWID;

CREATE TABLE freezes (
    id TEXT PRIMARY KEY,
    by TEXT NOT NULL,
    reason TEXT NOT NULL,
    at INTEGER NOT NULL,
    agent TEXT NOT NULL,
    workflow TEXT NOT NULL,
    run TEXT NOT NULL,
    scope TEXT NOT NULL,
    provider TEXT NOT NULL,
    CHECK (id = 'all' OR agent || workflow || run || scope || provider <> '')
) STRICT, WITHOUT ROWID;

INSERT INTO freezes (id, by, reason, at, agent, workflow, run, scope, provider)
SELECT 'all', '', '', 0, '', '', '', '', '' FROM control WHERE frozen = 1;

ALTER TABLE control DROP COLUMN frozen;

CREATE TABLE reviews (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    about TEXT NOT NULL,
    by TEXT NOT NULL,
    reason TEXT NOT NULL,
    at INTEGER NOT NULL,
    closed_by TEXT NOT NULL,
    closed_at INTEGER,
    note TEXT NOT NULL,
    CHECK (closed_by <> by) -- nobody signs for himself
) STRICT, WITHOUT ROWID;

CREATE TABLE second_factors (
    operator TEXT PRIMARY KEY,
    revision INTEGER NOT NULL,
    last_step INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    failed_at INTEGER,
    boot_id TEXT NOT NULL,
    failed_boot REAL NOT NULL
) STRICT, WITHOUT ROWID;

ALTER TABLE leases ADD COLUMN approval_id TEXT NOT NULL DEFAULT '';
ALTER TABLE leases ADD COLUMN approval_digest TEXT NOT NULL DEFAULT '';

-- One run's story is asked for by its name.
ALTER TABLE journal ADD COLUMN run TEXT GENERATED ALWAYS AS (json_extract(body, '$.run')) VIRTUAL;
CREATE INDEX journal_by_run ON journal (run) WHERE run IS NOT NULL;
-- Records of a lease's end name only its step.
ALTER TABLE journal ADD COLUMN step_id TEXT GENERATED ALWAYS AS (json_extract(body, '$.step_id')) VIRTUAL;
CREATE INDEX journal_by_step ON journal (step_id) WHERE step_id IS NOT NULL;
CREATE INDEX steps_open_by_run ON steps (workflow, run) WHERE state = 'OPEN';
