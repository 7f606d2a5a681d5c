"""One night: the incumbent validated again, a candidate made from what its making knew, and only what is better promoted."""
