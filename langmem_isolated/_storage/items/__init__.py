"""Items of a store: each under its namespace and key, with the vectors that find it.

An item's ``parent`` is a keyed digest for each level of its namespace, one behind the other, each
over the path so far. So the table names no label, and all that lies below a namespace is one range.
Vectors have the item's ``parent``, and as key the item's with a number behind it: they are put and
removed with the item, and count only while it is there. Each says, sealed, when its item was put:
one that an earlier put left counts no more.

The sealed plaintext is, in bytes::

    1 form | 8 updated | 8 time to live | what the caller gave

Times are µs since 1970, UTC; a time to live of 2^64 - 1 is none. The table's columns say when an
item was first put, when last, which the sealed time confirms, and when it expires, under a MAC of
its own. Expired means absent. When it was first put is not authenticated: so a put need not read
before it writes, which on PostgreSQL makes one round trip of three.
"""
