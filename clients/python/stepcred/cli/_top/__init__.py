"""`stepcred admin top`: steps, leases, revocations and the broker's health, live. Read-only.

model     what the broker answered, as plain values
poller    asks for it, again and again, on one channel
panes     the values as tables: columns, order, what needs a look
advice    the command lines that act on a row
screen    the live view (textual); snapshot prints one picture of it instead (rich)
"""
