"""Attempt budgets that refuse indefinite high-privilege retries."""
