"""What was really asked, from the journal: replayed against another map, measured, and told."""
