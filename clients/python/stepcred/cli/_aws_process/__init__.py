"""`stepcred aws-credential-process SCOPE`: what an AWS SDK starts each time that it wants credentials.

Such a process is over at once, and a lease must not be. So the first call starts a *keeper*, a process of its own that
holds the step open for as long as those live who called; each call asks it over a Unix socket. The way of a call to a
keeper that is there (`_client`, `_place`) imports nothing that is not needed for it: people wait for it.
"""
