"""Images as patches: where they lie, whitening, gates, and the operator Phi."""
