"""Ending sessions early: deny lists on roles, and who holds a place in them."""
