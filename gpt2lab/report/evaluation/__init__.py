"""Models evaluated on several data sources: what a chain of phases kept and forgot."""
