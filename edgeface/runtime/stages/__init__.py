"""The stages of a pipeline: what they hand to one another, and each kind of them."""
