"""Dialogues become fewer: exact, near and semantic duplicates, and overlap with benchmarks."""
