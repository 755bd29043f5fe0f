"""The algebra of axes, boxes, grids, layouts and views. numpy only."""
