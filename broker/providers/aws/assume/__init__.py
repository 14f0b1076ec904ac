"""AssumeRole without the SDK's client: the one call that every mint waits for."""
