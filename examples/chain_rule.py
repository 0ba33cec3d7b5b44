"""Backpropagation by hand: one neuron, then a layer and a batch, every derivative printed. `python chain_rule.py`."""

import bpnet as bp
from bpnet import ops

backend = bp.get_backend()


def array(x):
    return backend.asarray(x, dtype="float64")


def show(name, x):
    print(f"{name:10}", str(bp.to_numpy(x).round(6)).replace("\n", "\n" + " " * 11))


print("One neuron: z = x0 w0 + x1 w1 + x2 w2 + b, y = relu(z)\n")
x, w, b = array([1.0, -2.0, 3.0]), array([-3.0, -1.0, 2.0]), array([1.0])

xw = ops.mul(x, w)
z = ops.sum_terms((xw[0:1], xw[1:2], xw[2:3], b))
y = ops.relu(z)
show("x w", xw)
show("z", z)
show("y", y)

print("\nBackward from dy = 1, each derivative times the one before it\n")
dz = ops.relu_backward(array([1.0]), y)  # 1, because z > 0
*dxw, db = ops.sum_backward(dz, 4)  # a sum passes its derivative to every term
dx, dw = ops.mul_backward(backend.xp.concat(dxw), x, w)  # a product's by one factor is the other
show("dz", dz)
show("dx", dx)
show("dw", dw)
show("db", db)

print("\nA step of 0.001 against the gradient lowers y\n")
w, b = w - 0.001 * dw, b - 0.001 * db
y = ops.relu(ops.sum_terms((*(ops.mul(x, w)[i : i + 1] for i in range(3)), b)))
show("w", w)
show("b", b)
show("y", y)

print("\nThree neurons and a batch of three samples: the same, as matrix products\n")
model = bp.Sequential(bp.Dense(4, 3), bp.ReLU()).initialize(backend=backend, dtype="float64")
dense = model[0]
dense.weight.value = [[0.2, 0.5, -0.26], [0.8, -0.91, -0.27], [-0.5, 0.26, 0.17], [1.0, -0.5, 0.87]]
dense.bias.value = [2.0, 3.0, 0.5]

y = model.forward(array([[1.0, 2.0, 3.0, 2.5], [2.0, 5.0, -1.0, 2.0], [-1.5, 2.7, 3.3, -0.8]]))
dx = model.backward(y)  # dy = y, as if the loss were the sum of y^2 / 2
show("y", y)
show("dx", dx)
show("dW", dense.weight.grad)
show("db", dense.bias.grad)

bp.SGD(learning_rate=0.001).step(model)
show("new W", dense.weight.value)
show("new b", dense.bias.value)

print("\nSoftmax and cross-entropy: from probabilities p and labels to d loss / d logits\n")
p, labels = array([[0.7, 0.1, 0.2], [0.1, 0.5, 0.4], [0.02, 0.9, 0.08]]), backend.asarray([0, 1, 1])
dp = ops.categorical_cross_entropy_backward(p, labels, 3, 1.0)
show("loss", ops.categorical_cross_entropy(p, labels, 3))
show("dp", dp)
show("separate", ops.softmax_backward(dp, p))
show("combined", ops.softmax_cross_entropy_backward(p, labels, 3, 1.0))
