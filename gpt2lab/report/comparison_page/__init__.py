"""The page of a sweep or a comparison: its tables, its figures, its sentences."""
