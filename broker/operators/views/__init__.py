"""What operators are shown, as values: pure functions over a transaction, a page at a time."""
