"""What one operation costs, in counts that no machine changes: statements, commits, provider calls, objects made."""
