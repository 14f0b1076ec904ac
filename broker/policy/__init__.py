"""The scope map: parse, compile, decide, explain."""
