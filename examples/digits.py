"""Real handwritten digits: train a classifier, save it, load it back and look at its answers. `python digits.py`."""

import bpnet as bp

train, test = bp.data.load("digits")  # 1,797 images of 8x8 pixels; one fifth is held out
model = bp.Sequential(bp.Dense(64, 128), bp.ReLU(), bp.Dropout(0.1), bp.Dense(128, 10))

trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam(learning_rate=3e-3), metrics=[bp.Accuracy()], seed=0)
history = trainer.fit(train, validation_data=test, epochs=30, batch_size=64)
print(f"trained {model.n_parameters:,} parameters in {sum(history['seconds']):.1f} s on {model.backend.name}")

results = trainer.evaluate(test)
print(f"held-out images: accuracy {results['accuracy']:.4f}, loss {results['loss']:.4f} nats")

model.save("digits.safetensors")
loaded = bp.load("digits.safetensors")
scores = bp.predict(loaded, test.x[:10])
print("answers", *scores.argmax(axis=1))
print("labels ", *test.y[:10])
