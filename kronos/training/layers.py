"""Layers of the predictor from the embeddings up: their own learning rates, and unfreezing from the top down."""

from torch import nn

EMBEDDINGS = ("embedding", "time_emb")
BLOCKS = "transformer"


def layers_of(model: nn.Module) -> dict[str, int]:
    """Return the layer of each parameter by its name, counted down from the top.

    0 is everything above the blocks (norm and heads), 1 the last block, and the embeddings have the highest number.
    All parameters of a model without Transformer blocks of its own, such as the tokenizer, are in layer 0.
    """
    depth = len(getattr(model, BLOCKS, ()))
    found = {}
    for name, _ in model.named_parameters():
        part, _, rest = name.partition(".")
        if depth and part in EMBEDDINGS:
            found[name] = depth + 1
        elif depth and part == BLOCKS:
            found[name] = depth - int(rest.split(".")[0])
        else:
            found[name] = 0
    return found


class GradualUnfreezing:
    """Train the heads and the last block first, then one more block each `every` epochs, the embeddings last.

    What is trained is a function of the step, so that a resumed run goes on as the straight one. Parameters that
    are frozen when this object is made stay frozen; where the first layers from the top have no other parameters,
    training begins with the first one that has. A parameter that is not trained yet has no gradient, and the
    optimizer leaves it alone.
    """

    def __init__(self, model: nn.Module, every: float, steps_per_epoch: int) -> None:
        self.steps = every * steps_per_epoch
        layers = layers_of(model)
        by_layer: dict[int, list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                by_layer.setdefault(max(layers[name], 1), []).append(parameter)
        self.parts = [by_layer[layer] for layer in sorted(by_layer)]

    def before_step(self, step: int) -> None:
        """Set which parameters step number `step` trains, counted from 0."""
        count = 1 + int(step / self.steps)
        for place, part in enumerate(self.parts):
            for parameter in part:
                parameter.requires_grad_(place < count)
