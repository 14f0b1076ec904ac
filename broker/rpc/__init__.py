"""gRPC edge: server, interceptors, servicers, and the one table from reasons to status codes."""
