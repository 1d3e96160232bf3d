"""Muon (Jordan et al., 2024) for the matrices, AdamW for everything else.

Muon's update is the momentum, orthogonalized by Newton-Schulz steps and scaled to the size of an Adam update
(Liu et al., "Muon is scalable for LLM training", 2025).
"""

import torch


def orthogonalized(g):
    """The nearest orthogonal matrices of a stack [n, rows, columns], roughly: five quintic Newton-Schulz steps."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = g.shape[1] > g.shape[2]
    x = g.transpose(1, 2) if tall else g
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.transpose(1, 2)
        x = a * x + (b * square + c * (square @ square)) @ x
    return x.transpose(1, 2) if tall else x


class Muon(torch.optim.Optimizer):
    """Matrices [rows, columns] or stacks of them [n, rows, columns]."""

    def __init__(self, params, lr, momentum=0.95, weight_decay=0.0):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            shapes = {}
            for p in group["params"]:
                shapes.setdefault(p.shape[-2:], []).append(p)
            for (rows, columns), params in shapes.items():
                ahead = []
                for p in params:
                    state = self.state[p]
                    if "momentum" not in state:
                        state["momentum"] = torch.zeros_like(p)
                    m = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                    ahead.append(p.grad.lerp(m, group["momentum"]).reshape(-1, rows, columns))
                update = orthogonalized(torch.cat(ahead)).split([len(x) for x in ahead])
                size = 0.2 * max(rows, columns) ** 0.5
                for p, u in zip(params, update):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(u.view_as(p), alpha=-group["lr"] * size)


def optimizers(params, lr_matrices, lr_others):
    """params: by name. Embeddings, routers, norms and scales go to AdamW."""
    matrix = {n: p for n, p in params.items() if p.ndim > 1 and "embed" not in n and "router" not in n}
    others = [p for n, p in params.items() if n not in matrix]
    return [
        Muon(matrix.values(), lr=lr_matrices, weight_decay=0.02),
        torch.optim.AdamW(others, lr=lr_others, betas=(0.9, 0.98), weight_decay=0.0),
    ]
