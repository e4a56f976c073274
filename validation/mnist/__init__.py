"""Learned reconstruction and simulation of MNIST digits (§6.3, 6.3.1, 6.3.2, 6.5, Appendix A).

In go the IDX files of a data root and the settings; out come trained arms, tables of noise and
attacks, figures, and the paper's claims with their controls. The settings are at the bottom, then
tasks, losses, arms, measure, plots, and `study`, which is the family that every experiment here
derives from; above is `validation.experiment`'s runner, below `dro_torch`.
"""
