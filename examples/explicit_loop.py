"""Training with nothing hidden, on two problems that no straight line solves: XOR and a spiral of three arms."""

import numpy as np

import bpnet as bp
from bpnet.random import HostStream


def xor():
    return np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), np.array([0, 1, 1, 0])


def spiral(n_per_arm, n_arms, seed):
    """Points (n_per_arm * n_arms, 2) on noisy arms that turn by 4 radians, and the arm of each."""
    radius = np.linspace(0, 1, n_per_arm)
    noise = HostStream(seed, "spiral").normal((n_arms, n_per_arm))
    angle = 4 * (np.arange(n_arms)[:, None] + radius) + 0.2 * noise
    x = np.stack((radius * np.sin(angle), radius * np.cos(angle)), axis=-1)
    return x.reshape(-1, 2), np.repeat(np.arange(n_arms), n_per_arm)


def train(name, model, data, optimizer, epochs, batch_size):
    model.initialize(seed=0)
    loss = bp.SoftmaxCrossEntropy()
    x_all, labels_all = (model.asarray(each) for each in data)
    points = bp.Dataset(x_all, labels_all)
    for epoch in range(epochs):
        for x, labels in points.batches(batch_size, seed=0, epoch=epoch):
            logits = model.forward(x)
            value = loss.forward(logits, labels)
            model.backward(loss.backward())  # d loss / d logits, then every layer
            optimizer.step(model)  # and the gradients are consumed
        if (epoch + 1) % (epochs // 4) == 0:
            print(f"{name} epoch {epoch + 1:4}  loss {float(value):.4f}")
    right = bp.to_numpy(model(x_all)).argmax(axis=1) == data[1]
    print(f"{name} accuracy {right.mean():.3f}\n")


train(
    "xor",
    bp.Sequential(bp.Dense(2, 8), bp.Tanh(), bp.Dense(8, 2)),
    xor(),
    bp.SGD(learning_rate=0.1, momentum=0.9),
    epochs=200,
    batch_size=4,
)
train(
    "spiral",
    bp.Sequential(bp.Dense(2, 64), bp.ReLU(), bp.Dense(64, 3)),
    spiral(n_per_arm=100, n_arms=3, seed=0),
    bp.Adam(learning_rate=0.02),
    epochs=200,
    batch_size=100,
)
