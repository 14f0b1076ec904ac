-- What is asked every few seconds costs no more when there is much of it.

CREATE INDEX alerts_firing ON alerts (rule, since) WHERE resolved_at IS NULL;
CREATE INDEX alerts_resolved ON alerts (resolved_at) WHERE resolved_at IS NOT NULL;
CREATE INDEX deliveries_by_alert ON deliveries (fingerprint);

CREATE INDEX approvals_waiting ON approvals (requested_at, id) WHERE state = 'PENDING';

-- Also of those given back: it finds what is forgotten.
CREATE INDEX charges_by_time ON charges (at, hour_key, returned);
