"""A conversation with a model: what was said, what of it fits, how it is asked, kept and changed."""
