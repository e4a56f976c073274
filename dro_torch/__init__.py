"""PyTorch adapters of `dro_core`: the same objectives as losses for anyone's training loop.

Needs the optional dependency torch.
"""

try:
    import torch as torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError(
        "dro_torch needs PyTorch, which is not installed; "
        "install it with: pip install 'structured-dro[torch]'",
        name="torch",
    ) from None

__all__: list[str] = []
