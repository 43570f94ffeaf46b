"""Dialogues become a map: embedded, projected to two dimensions, drawn in the browser."""
