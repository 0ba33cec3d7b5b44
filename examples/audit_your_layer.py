"""A layer in 20 lines, audited: first with a mistake in its derivative, then without."""

import bpnet as bp


@bp.kernel
def swish(x, b):
    """x times the sigmoid of b x, with b (C,), one slope a feature."""
    return x / (1 + bp.namespace(x).exp(-b * x))


@bp.kernel
def swish_backward(dy, x, b):
    """dx = dy (s + b x s (1 - s)), db = sum of dy x^2 s (1 - s), where s is the sigmoid of b x."""
    xp = bp.namespace(x)
    s = 1 / (1 + xp.exp(-b * x))
    return dy * (s + b * x * s * (1 - s)), xp.sum(dy * x * x * s * (1 - s), axis=0)


class Swish(bp.Layer):
    """Swish with slopes that are learned."""

    def __init__(self, width):
        self.slope = bp.Parameter((width,), bp.initializers.constant(1.5))

    def __call__(self, x):
        return swish(x, self.slope.value)

    def forward(self, x):
        self.keep(x)
        return self(x)

    def backward(self, dy, need_dx=True):
        (x,) = self.kept()
        dx, db = swish_backward(dy, x, self.slope.value)
        self.slope.accumulate(self.over_samples(db, x))
        return dx if need_dx else None

    def over_samples(self, db, x):
        return db


class Averaged(Swish):
    """Divides by the number of samples, as the loss has done already."""

    def over_samples(self, db, x):
        return db / x.shape[0]


def main():
    train, _ = bp.data.load("digits")
    x, y = train.x[:20], train.y[:20]
    for layer in (Averaged(16), Swish(16)):
        model = bp.Sequential(bp.Dense(64, 16), layer, bp.Dense(16, 10))
        report = bp.audit(model, bp.SoftmaxCrossEntropy(), x, y)
        print(f"{type(layer).__name__}: {'passed' if report.passed else 'FAILED'}")
        for row in report.rows:
            if row.where.endswith(type(layer).__name__) or not row.passed:
                print(f"  {row.where}, {row.what}: {row.verdict}")


if __name__ == "__main__":
    main()
