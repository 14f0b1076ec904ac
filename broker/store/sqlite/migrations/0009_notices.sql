-- An outbox: written with the change that it tells of, and emptied at the pace of whoever is told.

CREATE TABLE alerts (
    fingerprint TEXT PRIMARY KEY,
    rule TEXT NOT NULL,
    labels TEXT NOT NULL,
    summary TEXT NOT NULL,
    since INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    count INTEGER NOT NULL,
    serial INTEGER NOT NULL,
    resolved_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE deliveries (
    sink TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    serial INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    next_try_at INTEGER,
    PRIMARY KEY (sink, fingerprint)
) STRICT, WITHOUT ROWID;

CREATE TABLE notices (
    id TEXT PRIMARY KEY,
    target TEXT NOT NULL,
    body TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    next_try_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    sent_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX notices_due ON notices (target, next_try_at) WHERE sent_at IS NULL;
CREATE INDEX notices_sent ON notices (sent_at) WHERE sent_at IS NOT NULL;
