"""Loss of the trained models on the test range, computed once, after all choices were made on validation."""

from kronos.distributed.device import choose
from kronos.stages.additions import side_inputs
from kronos.stages.base import Context, Inputs
from kronos.stages.inputs import windows_of
from kronos.stages.train_setup import make_objective
from kronos.stages.weights import KINDS
from kronos.utils.errors import UserError


def test_losses(context: Context, inputs: Inputs) -> dict[str, float]:
    """Return `test_loss_tokenizer` and `test_loss_predictor`, and the number of windows behind them, `test_windows`.

    Both are what `val_loss` is on the validation range: the reconstruction error of the forecast bars in normalised
    units, and their teacher-forced cross-entropy in nats. At most n_val_iter windows, chosen by the seed. Empty where
    the test range has no window.
    """
    from kronos.data.windows import Windows
    from kronos.training.validation import score_alone

    config, store, splits = context.config, inputs.store, inputs.splits
    assert store is not None and splits is not None
    if len(inputs.models.pairs) > 1:
        context.say("no test loss: an ensemble has none")
        return {}
    lookback, horizon = config.data.lookback_window, config.data.predict_window
    try:
        split = windows_of(config, store, "test", splits, lookback + horizon)
    except UserError as error:
        context.say(f"no test loss: {error}")
        return {}
    (pair,) = inputs.models.pairs
    source = Windows(
        store, split, lookback=lookback, clip=config.data.clip, seed=config.training.seed,
        columns=pair[0].model.columns, **side_inputs(store, pair[1].model),
    )  # fmt: skip
    most, seed = config.training.n_val_iter, config.training.seed
    device = choose(config.launch.device, config.launch.cpu, "fp32").device
    found: dict[str, float] = {}
    for kind, weights in zip(KINDS, pair, strict=True):
        objective = make_objective(kind, config, pair[0].model)
        means = score_alone(weights.model.to(device), objective, source, most, seed, device)
        weights.model.eval()
        found[f"test_loss_{kind}"] = means["val_loss"]
    found["test_windows"] = float(min(most, len(source)))
    context.say(
        f"test loss on {found['test_windows']:,.0f} windows of {splits.test[0]}..{splits.test[1]}: tokenizer "
        f"{found['test_loss_tokenizer']:.5g}, predictor {found['test_loss_predictor']:.5g}"
    )
    return found
