"""`stepcred sidecar`, and what the keeper of `stepcred aws-credential-process` shares with it."""
