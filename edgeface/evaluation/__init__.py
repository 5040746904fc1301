"""The papers' protocols: WIDER FACE AP, landmark NME and CED, head pose MAE, and the report of them."""
