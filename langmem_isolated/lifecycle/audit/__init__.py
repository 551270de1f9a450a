"""Audit log: who did and read what, why, and the proof that nobody changed it since."""
