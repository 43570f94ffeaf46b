"""Dialogues become weights."""
