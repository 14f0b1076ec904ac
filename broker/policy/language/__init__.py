"""A map's text → ScopeMap: documents, entries, teams, what one file may say over another, and every mistake at its place."""
