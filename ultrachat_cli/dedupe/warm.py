"""Imported once by the process that the others are forked from: the compiled kernels are loaded when work begins."""

import numpy as np

from ultrachat_cli.dedupe import kernel, near, scan, words

__all__ = ["near", "scan"]
kernel.shingles(np.frombuffer(b"kernels are loaded by being used", np.uint8), 5, *words.tables())
