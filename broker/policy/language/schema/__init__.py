"""The scope map's shape: one strict model per kind of entry, and pydantic's complaints in our words.

Each entry is validated alone, so that one mistake does not hide the others. No unions: they report a
mistake once per member.
"""
