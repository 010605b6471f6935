"""One outer step: what moves y and gives the gradient of x, for chains, the dual multiplier and first-order methods."""
