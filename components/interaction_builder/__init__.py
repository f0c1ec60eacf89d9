"""Events to user sequences with their split, and to Swing pairs."""
