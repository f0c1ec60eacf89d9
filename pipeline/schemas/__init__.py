"""The curated data schemas, and what a run makes of them."""
