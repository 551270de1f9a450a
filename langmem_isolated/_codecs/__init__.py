"""Serialization: what is sealed, as versioned bytes, and back."""
