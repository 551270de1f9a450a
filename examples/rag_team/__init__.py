"""RAG for a team: one Chroma collection for all teams, handbooks that are published, own notes."""
