"""What adapters share: the context of a memory, the scope of a run, recording, document tags."""
