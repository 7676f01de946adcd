"""The numbers of a comparison: arms over seeds, their differences, and what the seeds support."""
