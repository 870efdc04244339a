"""One thread per test: sums are then in one order, and two workers share two cores."""

import torch

torch.set_num_threads(1)
