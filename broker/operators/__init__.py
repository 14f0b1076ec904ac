"""What people may do: who they are, which duties are kept apart, and what they decide."""
