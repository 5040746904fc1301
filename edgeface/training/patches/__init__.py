"""Training of nets that look at one square patch each: MTCNN's three and T-CNN."""
