"""Coverage-guided fuzzing of whatever reads a stranger's bytes, or a file that somebody else wrote."""
