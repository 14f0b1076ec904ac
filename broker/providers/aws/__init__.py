"""AWS STS: narrow sessions, shorter than STS allows, ended early by a deny on the role."""
