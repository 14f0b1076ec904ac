-- The last good scope map, whole: a bad one on disk then keeps nobody from starting.
CREATE TABLE kept_map (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    root TEXT NOT NULL, -- the name of the root file
    digest TEXT NOT NULL,
    generation INTEGER NOT NULL,
    loaded_at INTEGER NOT NULL,
    serial INTEGER NOT NULL, -- of its manifest; 0 = not signed
    manifest_digest TEXT NOT NULL,
    signers TEXT NOT NULL,
    manifest BLOB NOT NULL -- with its signatures
) STRICT;

CREATE TABLE kept_files (
    name TEXT PRIMARY KEY,
    content BLOB NOT NULL
) STRICT;

-- Of all manifests that were ever in force: an older one is a replay, also after an unsigned map.
ALTER TABLE control ADD COLUMN map_serial INTEGER NOT NULL DEFAULT 0;
ALTER TABLE control ADD COLUMN map_manifest TEXT NOT NULL DEFAULT ''; -- its digest

-- After each new map the leases of tier high are asked about first.
CREATE INDEX leases_live_high ON leases (state) WHERE tier = 'high' AND state IN ('INTENT', 'IN_DOUBT', 'ACTIVE');
