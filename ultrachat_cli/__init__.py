"""`ultrachat`: build chat models from synthetic conversations."""

__version__ = "0.1.0"
