"""What happened before a camera, kept: a row a track in SQLite, and its best shot beside it."""
