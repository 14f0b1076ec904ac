"""Generated from proto/stepcred/v1; do not edit (`make proto`)."""
