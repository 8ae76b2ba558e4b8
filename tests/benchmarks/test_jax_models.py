"""JAX's models against PyTorch's, for the same weights. (`python -m benchmarks check` goes through all.)"""

import numpy as np
import pytest

pytest.importorskip("jax")


@pytest.mark.parametrize("name", ["mlp", "lstm", "resnet18"])
def test_logits_are_pytorchs(name: str) -> None:
    from benchmarks import jax_models, libraries, models

    reference = libraries.Torchlike("torch", name)
    reference.mode(training=False)
    expected = reference.inference(2)()
    parameters, running = jax_models.from_state({k: v.numpy() for k, v in reference.model.state_dict().items()})
    x = jax_models.input_of(models.batch(name, 2)[0])
    found = np.asarray(jax_models.infer(name, parameters, running, x))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    initial = jax_models.initial(name, x.shape)
    assert [{k: v.shape for k, v in part.items()} for part in initial] == [
        {k: v.shape for k, v in part.items()} for part in (parameters, running)
    ]


def test_training_steps_are_pytorchs() -> None:
    from benchmarks import jax_models, libraries

    reference = libraries.Torchlike("torch", "mlp")
    work = libraries.Jax("mlp")
    state = {k: v.numpy().copy() for k, v in reference.model.state_dict().items()}
    work.parameters, work.running = jax_models.from_state(state)
    steps = [w.training() for w in (reference, work)]
    losses = np.array([[step() for step in steps] for _ in range(3)])
    np.testing.assert_allclose(losses[:, 1], losses[:, 0], rtol=1e-5)
    assert losses[2, 0] < losses[0, 0]


def test_adamw_is_pytorchs() -> None:
    import torch

    from benchmarks import jax_models

    start = np.array([1.0, -2.0, 3.0], np.float32)
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = torch.optim.AdamW([parameter], lr=1e-4)
    update, memory = jax_models.optimizer("gpt", {"p": start})
    found = {"p": start}
    for number in range(4):
        gradient = np.array([0.1, 0.2 * number, -1.0], np.float32)
        parameter.grad = torch.from_numpy(gradient)
        optimizer.step()
        found, memory = update(found, {"p": gradient}, memory)
    np.testing.assert_allclose(np.asarray(found["p"]), parameter.detach().numpy(), rtol=1e-6)
