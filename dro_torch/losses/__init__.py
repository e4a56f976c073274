"""Losses: the objectives of `dro_core` for networks."""
