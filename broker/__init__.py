"""The stepcred daemon: mTLS in, scoped short-lived credentials out, everything journalled."""
