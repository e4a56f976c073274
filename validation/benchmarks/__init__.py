"""Side by side with what a user would use instead; ratios from one run, never absolute claims."""
