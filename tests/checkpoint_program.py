"""A training for tests to kill: `python checkpoint_program.py FOLDER OUT [slow]` goes on from the checkpoints in FOLDER
and writes the final state to OUT. Slow: it rests a little in every step and before a file gets its name.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import numpy as np

import bpnet as bp
from bpnet.callbacks import EarlyStopping, EveryStep

EPOCHS, REST = 8, 0.004


def slowly() -> None:
    """Let a file wait for its name, so that a kill is likely to find it half written."""
    replace = os.replace

    def waiting(*names: Any) -> None:
        time.sleep(REST)
        replace(*names)

    os.replace = waiting  # type: ignore[assignment]


def main(folder: str, out: str, slow: bool) -> None:
    """Train."""
    if slow:
        slowly()
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(90, 6)), rng.integers(0, 3, 90)
    model = bp.Sequential(bp.Dense(6, 16), bp.ReLU(), bp.Dropout(0.2), bp.Dense(16, 3))
    optimizer = bp.AdamW(bp.Cosine(0.01, 100, warmup=5), average=0.95, clip_norm=1.0)
    trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), optimizer, metrics=[bp.Accuracy()], seed=2)
    rest = EveryStep(lambda trainer: time.sleep(REST if slow else 0))
    trainer.fit(
        x[:75],
        y[:75],
        validation_data=(x[75:], y[75:]),
        epochs=EPOCHS,
        batch_size=8,
        micro_batch_size=5,
        progress=False,
        callbacks=[EarlyStopping(patience=50), rest],
        checkpoint=bp.Checkpoint(folder, every_steps=1),
        resume=True,
    )
    trainer.save(out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], "slow" in sys.argv[3:])
