"""Train a small convolutional network on digits, once as it should be and once on pixels that nobody has scaled.

You will see: how well each arm recognizes digits it has not seen, what actdiag finds in it, and when. The healthy arm
has no finding. The sick one is the same network with the same rate, on pixels of 0 to 255: inputs that are all positive
and large. That is told at the first step; then channels die in both convolutions, and fewer digits are recognized.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import actdiag


def network() -> nn.Sequential:
    """Two convolutions, pooling, a hidden layer and a head: images [N, 1, 8, 8] to logits [N, 10]."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def digits(scale: float, offset: float) -> tuple[Tensor, Tensor]:
    """The 1,797 images of scikit-learn, from [0, 1] to `scale` times that, plus `offset`; and their classes."""
    found = load_digits()
    images = torch.as_tensor(found.images, dtype=torch.float32).unsqueeze(1) / 16
    return scale * images + offset, torch.as_tensor(found.target)


def train(scale: float, offset: float, epochs: int) -> tuple[list[actdiag.Finding], float]:
    """Train on the first 1,500 images; what was found, and the share of the others that is recognized."""
    torch.manual_seed(0)
    x, y = digits(scale, offset)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    # Without a budget the same steps are recorded on every machine.
    with actdiag.Monitor(model, optimizer, log_every_n_steps=20, max_overhead=None) as monitor:
        for _ in range(epochs):
            for index in torch.randperm(1500).split(50):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[index]), y[index]).backward()
                optimizer.step()
    with torch.no_grad():
        right = float((model(x[1500:]).argmax(1) == y[1500:]).float().mean())
    return monitor.findings, right


def main(epochs: int = 10) -> dict[str, tuple[list[actdiag.Finding], float]]:
    """Train both arms and print what was found; the findings and the accuracy of each."""
    arms = {"healthy: pixels of mean 0": (4.0, -1.2), "sick: pixels as a camera has them": (255.0, 0.0)}
    results = {}
    for name, (scale, offset) in arms.items():
        results[name] = findings, right = train(scale, offset, epochs)
        print(f"{name}: {right:.0%} of unseen digits recognized, findings: {len(findings)}")
        for finding in findings:
            print(f"  step {finding.step}: {finding}")
        for advice in dict.fromkeys(advice for finding in findings[:3] for advice in finding.advice[:1]):
            print(f"  try: {advice}")
    return results


if __name__ == "__main__":
    main()
