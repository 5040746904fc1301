"""Exports of annotation tools and of public data sets, read into the project's format."""
