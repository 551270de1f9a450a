"""Chat sessions: one container row each, and the messages below it in gapless order.

The row's MAC is over its counters, its expiry, what stands for the newest message, and the multiset
hash of all of them. Whoever removes, adds or exchanges messages in the database cannot make a row
MAC that fits, so every read notices a gap or another newest message, however few messages it reads.
That one amid others was exchanged for what once stood there is noticed by the multiset hash alone,
which takes all messages (1.4 µs each): `_storage/verification.py` does.
"""
