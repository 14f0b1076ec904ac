"""The lease engine: intent, mint, commit, revoke, prove."""
