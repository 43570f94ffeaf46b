"""Answers to numbers: rewards by a reward model, marks and critiques by UltraCM or any chat model."""
