"""Adapters by peft (LoRA, DoRA): small matrices beside the linear layers of a pretrained model, whose weights stay.

The only module that imports peft, where it is used, because that takes seconds.
"""

import copy
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kronos.config.sections import TrainingConfig
from kronos.model.attention import Attention
from kronos.model.layers import FeedForward
from kronos.utils.errors import UserError

FOLDER = "adapter"  # beside the merged weights in best_model
ADAPTER = "default"  # peft's name of the only adapter
PEFT_MODEL = "base_model.model."  # in peft's files, what the names of a model's layers begin with
LAYERS = {"attention": Attention, "feed-forward": FeedForward}
# Output projections: to the ids of the predictor, to the bits and the bars of the tokenizer.
HEADS = ("head.proj_s1", "head.proj_s2", "quant_embed", "head")


def target_layers(model: nn.Module, targets: Iterable[str]) -> list[str]:
    """Return the names of the linear layers that `adapter_targets` means, without frozen ones, in order."""
    wanted = set(targets)
    kinds = tuple(kind for name, kind in LAYERS.items() if name in wanted)
    found = []
    for name, layer in model.named_modules():
        parent = model.get_submodule(name.rpartition(".")[0])
        meant = isinstance(parent, kinds) or ("heads" in wanted and name in HEADS)
        if meant and isinstance(layer, nn.Linear) and layer.weight.requires_grad:
            found.append(name)
    return found


def add_adapter(model: Any, training: TrainingConfig, address: str | None = None) -> Any:
    """Freeze the model's weights and add the adapter of the configuration to it, in place; returns the model.

    The adapter begins as no change: the second matrix is zero. The first is drawn from torch's global generator.
    `address` of the model's weights is noted in peft's files. Without an adapter in the configuration the model is
    left as it is. Raises UserError where every layer that is meant is frozen.
    """
    if training.adapter == "none":
        return model
    from peft import LoraConfig, inject_adapter_in_model

    names = target_layers(model, training.adapter_targets)
    if not names:
        raise UserError(
            f"adapter_targets: every layer of {','.join(training.adapter_targets)} is frozen: lower freeze_blocks"
        )
    options: dict[str, Any] = {
        "r": training.adapter_rank,
        "lora_alpha": training.adapter_alpha,
        "use_dora": training.adapter == "dora",
        "target_modules": "|".join(
            re.escape(name) for name in names
        ),  # exactly these; a list matches ends of names
        "base_model_name_or_path": address,
    }
    inject_adapter_in_model(LoraConfig(**options), model, ADAPTER)
    for name in names:
        # Under autocast peft would first make a float32 copy of each input. DoRA's norms need it.
        model.get_submodule(name).cast_input_dtype_enabled = training.adapter == "dora"
    return model


def has_adapter(model: nn.Module) -> bool:
    """Return whether `add_adapter` has added one, to the model or to a part of it."""
    return any(hasattr(part, "peft_config") for part in model.modules())


def merged(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of the model without its adapter and with the change merged into the layers' weights.

    `weights` is the state dict with the adapter, on the CPU; it is left as it is. The names are the public ones.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = dict(weights)
    layers: dict[str, Any] = {
        name: layer for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)
    }
    for name, layer in layers.items():
        # A copy of the layer around the given weights: its own may be sharded, or on another device.
        whole = {
            id(parameter): nn.Parameter(found.pop(f"{name}.{key}"), requires_grad=False)
            for key, parameter in layer.named_parameters()
        }
        layer = copy.deepcopy(layer, whole)
        layer.merge(safe_merge=True)  # into a copy of the weight
        base = layer.get_base_layer()
        found |= {f"{name}.{key}": parameter.data for key, parameter in base.named_parameters()}
    return found


def save_adapter(model: Any, weights: dict[str, Tensor], folder: Path) -> None:
    """Write the adapter as peft does: adapter_config.json and adapter_model.safetensors.

    `peft.PeftModel.from_pretrained(base, folder)` reads them. `weights` is the state dict with the adapter. Where a
    part of the model has the adapter, such as the predictor under a head, the files are those of the part.
    """
    from peft import get_peft_model_state_dict
    from peft.utils import SAFETENSORS_WEIGHTS_NAME
    from safetensors.torch import save_file

    place, model = next((name, part) for name, part in model.named_modules() if hasattr(part, "peft_config"))
    before = f"{place}." if place else ""
    weights = {name.removeprefix(before): one for name, one in weights.items() if name.startswith(before)}
    config = copy.copy(model.peft_config[ADAPTER])
    config.inference_mode = True  # as peft saves it: loaded, an adapter is frozen unless asked otherwise
    kind = type(model)
    config.save_pretrained(
        folder, auto_mapping_dict={"base_model_class": kind.__name__, "parent_library": kind.__module__}
    )
    # Embeddings are never trained here; asked about them, peft would look for the base model on the Hub.
    own = get_peft_model_state_dict(model, weights, ADAPTER, save_embedding_layers=False)
    path = folder / SAFETENSORS_WEIGHTS_NAME
    save_file({PEFT_MODEL + name: tensor for name, tensor in own.items()}, path, metadata={"format": "pt"})
    path.chmod(0o644)


def trainable(model: nn.Module) -> int:
    """Return the number of values that an optimizer step changes."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
