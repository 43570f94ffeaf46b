"""base + delta -> weights (recover), and back (make-delta), chunk by chunk."""
