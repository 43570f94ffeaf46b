"""Dialogue files in, dialogue files or figures out, one pass each."""
