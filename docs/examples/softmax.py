"""A softmax after a matrix product, and its derivative: small enough to read everything the compiler prints."""

import firepot as fp

x = fp.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
w = fp.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], requires_grad=True)
(x @ w).softmax(1)[:, 0].sum().backward()
print(w.grad)
