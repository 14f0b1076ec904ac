"""`check --live`: is everything at AWS as the scopes need it, and no wider?"""
