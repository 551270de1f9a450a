"""Chat sessions: one container row each, and the messages below it in gapless order.

The row's ``head`` is the tag of the newest message followed by a MAC over the row's counters, its
expiry and that tag. Whoever removes, adds or exchanges messages in the database cannot make a head
that fits, so every read notices, however few messages it reads. A chained MAC over all messages
would notice the same only after reading all of them (1.4 µs each).
"""
