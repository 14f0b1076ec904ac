-- Was the journal's head ever written outside? Then a start without that file is a start without memory.
ALTER TABLE control ADD COLUMN anchored INTEGER NOT NULL DEFAULT 0 CHECK (anchored IN (0, 1));
