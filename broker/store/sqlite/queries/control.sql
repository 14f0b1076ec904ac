-- name: control
SELECT installation, policy_generation, anchored, map_serial, map_manifest,
    EXISTS (SELECT 1 FROM freezes WHERE id = 'all') AS frozen
FROM control;

-- name: key_fingerprints
SELECT kid, fingerprint FROM key_fingerprints ORDER BY kid;

-- name: add_key_fingerprint
-- No row changes when the key id is known by another fingerprint.
INSERT INTO key_fingerprints (kid, fingerprint) VALUES (:kid, :fingerprint)
ON CONFLICT (kid) DO UPDATE SET fingerprint = excluded.fingerprint WHERE fingerprint = excluded.fingerprint;

-- name: forget_key_fingerprint
DELETE FROM key_fingerprints WHERE kid = :kid;

-- name: raise_generation
UPDATE control SET policy_generation = policy_generation + 1 RETURNING policy_generation;

-- name: set_anchored
UPDATE control SET anchored = 1;

-- name: raise_map_serial
UPDATE control SET map_serial = :serial, map_manifest = :digest WHERE map_serial < :serial;

-- name: keep_map
INSERT OR REPLACE INTO kept_map (id, root, digest, generation, loaded_at, serial, manifest_digest, signers, manifest)
VALUES (1, :root, :digest, :generation, :loaded_at, :serial, :manifest_digest, :signers, :manifest);

-- name: forget_files
DELETE FROM kept_files;

-- name: keep_file
INSERT INTO kept_files (name, content) VALUES (:name, :content);

-- name: kept_map
SELECT root, digest, generation, loaded_at, serial, manifest_digest, signers, manifest FROM kept_map;

-- name: kept_files
SELECT name, content FROM kept_files ORDER BY name;

-- name: start_epoch
INSERT INTO epochs (id, replica, boot_id, expires_boot)
SELECT max(coalesce(max(id), 0) + 1, :at_least), :replica, :boot_id, :expires_boot FROM epochs
RETURNING id;

-- name: epoch
SELECT id, replica, boot_id, expires_boot FROM epochs ORDER BY id DESC LIMIT 1;

-- name: renew_epoch
UPDATE epochs SET expires_boot = :expires_boot
WHERE id = :epoch AND id = (SELECT max(id) FROM epochs);
