"""ALTO: alternating optimization."""

from __future__ import annotations

from jboat.fo_ol.first_order import Auxiliary, FirstOrder, FirstOrderStep
from jboat.levels import Batch
from jboat.registry import register_operator


@register_operator("fo", cost="one lower gradient by y, one upper gradient by x; memory of one step")
class ALTO(FirstOrder):
    """One lower optimizer step on f, then the direct gradient ``grad_x F`` at the new y.

    The influence of x on F through y is left out, so it converges to a point where y is optimal for f, and x for F at
    that y, which is in general not the bilevel solution.

    Source: the baseline of Liu, Gao, Zhang, Meng and Lin, "Investigating bi-level optimization for learning and vision
    from a unified perspective: a survey and beyond", IEEE TPAMI 2021.
    """

    keeps = ()
    zero_because = "ALTO takes grad_x F alone, which is zero where ul_objective does not use ul_model"

    def optimize(
        self, ll_feed_dict: Batch, ul_feed_dict: Batch, current_iter: int, auxiliary: Auxiliary | None = None
    ) -> FirstOrderStep:
        """See :meth:`FirstOrder.optimize`."""
        y = self.start()
        here = self.gradients(lambda v: self.lower_loss(v, ll_feed_dict), y, by_x=False)
        y_new, state = self.lower_step(y, here.by_y, decay_included=False, together_with=[here.loss])
        upper = self.gradients(lambda v: self.upper_value(v, ul_feed_dict), y_new, by_y=False)
        return FirstOrderStep(
            gradients=upper.by_x,
            ll_parameters=y_new,
            ll_state=state,
            upper_loss=float(upper.loss.item()),
            lower_loss=float(here.loss.item()),
            upper_loss_after_step=True,
            value=lambda: self.upper_value(y_new, ul_feed_dict),
        )
