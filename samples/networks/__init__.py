"""Networks in the form in which exporters write them, with random weights (see ../make_models.py)."""
