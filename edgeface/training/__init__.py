"""Training: configuration, anchor assignment, losses, the loop with resume, and its log and plots."""
