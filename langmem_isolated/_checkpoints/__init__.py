"""Stores the checkpoints that LangGraph makes in their sealed form, and finds them again."""
