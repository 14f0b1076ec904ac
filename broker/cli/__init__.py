"""The commands of `stepcred-broker`, one module each."""
