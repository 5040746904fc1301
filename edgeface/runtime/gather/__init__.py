"""How the input of a net per face is gathered: one file a way."""
