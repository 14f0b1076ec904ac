"""What can be wrong with an outlet. Messages name scopes, fields and paths, never a value."""


class Unusable(Exception):
    """The credential has no such part, or cannot be put there."""


class Unsafe(Unusable):
    """The place is none for a secret: on disk, writable by others, a link."""
