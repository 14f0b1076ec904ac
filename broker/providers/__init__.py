"""What mints and revokes. One package per vendor, the only place that imports its SDK."""
