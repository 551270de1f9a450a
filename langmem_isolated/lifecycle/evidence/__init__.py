"""Evidence packs: what a verification found, signed for those who were not there."""
