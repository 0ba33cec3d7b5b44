"""One script for every backend: `python backends.py`, then `BPNET_BACKEND=cupy python backends.py`.

Exits with 2, and the reason and the remedy on standard error, where the backend cannot be used.
"""

import sys

import bpnet as bp

try:
    backend = bp.get_backend()  # use_backend's choice, else BPNET_BACKEND's, else NumPy
except bp.BackendError as error:
    print(error, file=sys.stderr)
    sys.exit(2)

about = backend.describe()
print(f"backend {backend.name}, version {about['version']}, on {about['device']}")

train, test = bp.data.load("digits")  # NumPy arrays; the Trainer moves them to the model's backend
model = bp.Sequential(bp.Dense(64, 32), bp.ReLU(), bp.Dense(32, 10))
trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam(learning_rate=0.005), metrics=[bp.Accuracy()], seed=0)

before = trainer.evaluate(test)
trainer.fit(train, epochs=5, batch_size=64, progress=False)
after = trainer.evaluate(test)

print(f"weights are {type(model[0].weight.value).__module__.split('.')[0]} arrays")
print(f"before: loss {before['loss']:.4f}, accuracy {before['accuracy']:.3f}")
print(f"after:  loss {after['loss']:.4f}, accuracy {after['accuracy']:.3f}")
