"""Problems whose objectives are means over samples."""

import jittor as jt
from jittor import nn
import numpy as np
from problems import DIM_Y, Classifier, Quadratic


class SampledQuadratic(Quadratic):
    """The quadratic as a mean over seven lower and five upper samples, no two of them alike.

    Both objectives are quadratic with coefficients that are means over samples, so that ``reference`` is right for the
    whole batches however their samples are spread.
    """

    LOWER, UPPER = 7, 5

    def __init__(self, seed=0, *, coupling=1.0, rho=0.1, **kwargs):
        super().__init__(seed, coupling=coupling, **kwargs)
        self.rho = rho
        rng = np.random.default_rng(seed + 1)

        def spread(mean, samples):
            noise = rng.normal(size=(samples, *mean.shape))
            return mean + noise - noise.mean(0)

        m = spread(np.zeros((DIM_Y, DIM_Y)), self.LOWER)
        self.ll_batch = {
            "A": self.A + 0.3 * (m + m.transpose(0, 2, 1)),
            "B": spread(self.B, self.LOWER),
            "c": spread(self.c, self.LOWER),
        }
        self.ul_batch = {"t": spread(self.t, self.UPPER), "D": spread(self.D, self.UPPER)}
        self._spread_of_t = 0.5 * ((self.ul_batch["t"] - self.t) ** 2).sum(1).mean()

    def f(self, batch, ul_model, ll_model):
        y, x = ll_model(), ul_model()
        A, B, c = (batch[name].mean(0) for name in "ABc")
        shift = (B * x.reshape(1, -1)).sum(1) + c
        return 0.5 * (y.reshape(-1, 1) * A * y.reshape(1, -1)).sum() - (y * shift).sum()

    def F(self, batch, ul_model, ll_model):
        y, x = ll_model(), ul_model()
        gap = y.reshape(1, -1) - batch["t"]
        cross = (y.reshape(-1, 1) * batch["D"].mean(0) * x.reshape(1, -1)).sum()
        return 0.5 * (gap * gap).sum(1).mean() + 0.5 * cross + 0.5 * self.rho * (x * x).sum()

    def upper(self, y, x):
        return super().upper(y, x) + self._spread_of_t

    def batches(self):
        return self.ll_batch, self.ul_batch


class SampledClassifier(Classifier):
    """The weighted classifier; a batch says which samples it holds, each of which has a weight."""

    def batches(self):
        return {**self.train, "index": np.arange(self.SAMPLES)}, dict(self.val)

    @staticmethod
    def f(batch, ul_model, ll_model):
        losses = nn.cross_entropy_loss(ll_model(batch["data"]), batch["target"], reduction="none")
        return (losses * ul_model().sigmoid()[batch["index"]]).mean()


class Normalised(SampledClassifier):
    """The same with a network whose batch normalization mixes the samples of a batch, 23 of them."""

    def batches(self):
        return tuple({name: value[:23] for name, value in batch.items()} for batch in super().batches())

    def models(self):
        ul_model, _ = super().models()
        rng = np.random.default_rng(5)
        width = 4
        ll_model = nn.Sequential(
            nn.Linear(self.FEATURES, width), nn.BatchNorm(width), nn.Tanh(), nn.Linear(width, self.CLASSES)
        )
        for p in (ll_model[0].weight, ll_model[0].bias, ll_model[3].weight, ll_model[3].bias):
            p.assign(jt.array(0.5 * rng.normal(size=p.shape).astype("float32")))
        return ul_model, ll_model
