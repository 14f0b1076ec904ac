"""What people must be told."""
