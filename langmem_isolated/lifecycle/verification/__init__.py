"""Verification: of one scope, and of all that an installation holds."""
