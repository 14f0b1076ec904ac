-- Whose certificate began a step and asked for a lease: a step may be held to its key, and one that is denied later ends them.
-- Of what is older, nothing is known.
ALTER TABLE steps ADD COLUMN bind TEXT NOT NULL DEFAULT 'identity' CHECK (bind IN ('identity', 'key'));
ALTER TABLE steps ADD COLUMN spki_sha256 TEXT NOT NULL DEFAULT '';
ALTER TABLE steps ADD COLUMN serial_number TEXT NOT NULL DEFAULT '';
ALTER TABLE steps ADD COLUMN issuer TEXT NOT NULL DEFAULT '';
ALTER TABLE leases ADD COLUMN spki_sha256 TEXT NOT NULL DEFAULT '';
ALTER TABLE leases ADD COLUMN serial_number TEXT NOT NULL DEFAULT '';
ALTER TABLE leases ADD COLUMN issuer TEXT NOT NULL DEFAULT '';

-- A step once begun is held to what it began with.
CREATE TRIGGER steps_keep_their_key BEFORE UPDATE OF bind, spki_sha256, serial_number, issuer ON steps
WHEN OLD.started_at IS NOT NULL
BEGIN
    SELECT RAISE (ABORT, 'a step that has begun is held to the key that it began with');
END;
