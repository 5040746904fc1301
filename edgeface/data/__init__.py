"""Annotated pictures: readers into one form, the training sets built from them, and augmentation."""
