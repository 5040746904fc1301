"""The page that shows what the camera sees, live, in a browser; see ``web.py`` for the sink that serves it."""
