"""The daemon's map: read from its files, watched, signed, kept in the database, and swapped only for a good one (I7)."""
