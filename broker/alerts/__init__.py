"""Tells people: rules, what waits to be sent, and where it is sent to."""
