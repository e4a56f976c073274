r"""The twist condition: is the map that optimal transport looks for a map at all?

For the cost :math:`c(y,x) = \|A(x)-y\|^2 + \lambda\|y-x\|^2` the left twist condition says that
:math:`x \mapsto \partial c/\partial y` is injective, which is injectivity of

.. math:: F(x) = A(x) + \lambda x

(with an upsampling Q and :math:`\|Qy-x\|^2` it is :math:`A(x) + \lambda Q^\top x`). The answer is
True with a certificate, False with a pair of points that F does not tell apart, or None.

In comes a map and a weight, out goes a report with certificate or witness. Above: the losses for
unpaired data; below: linear maps and operators.
"""

from dro_core.twist.condition import twist_condition
from dro_core.twist.report import TwistCertificate, TwistReport

__all__ = ["TwistCertificate", "TwistReport", "twist_condition"]
