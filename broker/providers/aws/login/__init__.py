"""Who the broker itself is at AWS."""
