"""A whole broker in one process, for writing workflows: real engine, stand-ins for credentials."""
