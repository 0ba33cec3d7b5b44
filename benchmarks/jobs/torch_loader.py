"""PyTorch, eager: batches from a DataLoader, as its tutorials write it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.jobs import BATCH, LEARNING_RATE, SIZES


def main(folder: Path, epochs: int) -> None:
    x, y, test_x, test_y = (
        torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("x", "y", "test_x", "test_y")
    )
    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True)
    n_in, first, second, n_out = SIZES
    model = nn.Sequential(
        nn.Linear(n_in, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, n_out)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    for _ in range(epochs):
        total = 0.0
        for batch, labels in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(batch), labels)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
    with torch.no_grad():
        print((model(test_x).argmax(dim=1) == test_y).float().mean().item())


main(Path(sys.argv[1]), int(sys.argv[2]))
