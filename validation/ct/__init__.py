"""Low-dose fan-beam tomography (§6.6): from transmitted light to slices, robustly.

What moves is the flat- and dark-corrected transmission, before its logarithm and filtered
back-projection, as in the paper; in balls that are isotropic, or weighted ray by ray with the
photons that are expected there. Below are the arms and the engine of `validation.mnist`.
"""
