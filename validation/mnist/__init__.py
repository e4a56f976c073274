"""The MNIST experiments of Section 6 and Appendix A: one code path, several presets."""
