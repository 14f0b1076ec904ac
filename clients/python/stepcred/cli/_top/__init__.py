"""`stepcred admin top`: steps, leases, revocations and the broker's health, live. Read-only.

command   what is given on the command line
poller    asks the broker for it, again and again, on one channel
answers   its answers as plain values, of which model is made; whatever they say is made fit for a terminal (words)
panes     the values as tables (table): columns, orders, what needs a look; head: the lines above them
advice    the command lines that act on a row
live      the view in a terminal (view, grid, pages: textual); snapshot prints one picture instead (rich)
"""
