"""Upgrades: the numbered steps that bring a database from each version of its tables to the next.

Not Alembic's: it takes 0.56 s to import where an application opens its database for the first time,
and brings a second record of the version beside the one that is in our tables; an application that
uses it has a table `alembic_version` of its own. What it is good at (finding out what changed,
branches, ways back) steps of frozen SQL do not need.
"""
