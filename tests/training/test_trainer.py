import json
import math
import os
import signal
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fit_settings import changed, fit_settings
from safetensors.torch import load_file

from kronos.data.splits import Split
from kronos.data.window_order import WindowOrder, epoch_order
from kronos.data.windows import Batch, Windows
from kronos.distributed.device import Runtime, seed_everything
from kronos.model.predictor import Kronos
from kronos.model.tokenizer import KronosTokenizer
from kronos.training import checkpoint as training_state
from kronos.training.objectives import PredictorObjective, TokenizerObjective
from kronos.training.settings import plan
from kronos.training.trainer import TrainingStopped, fit
from kronos.utils.errors import UserError

LOOKBACK, HORIZON, LENGTH = 8, 3, 12
CPU = Runtime(torch.device("cpu"))
BITS = {"s1_bits": 4, "s2_bits": 4}
SHAPE = {"d_model": 16, "n_heads": 4, "ff_dim": 24, "ffn_dropout_p": 0.0, "attn_dropout_p": 0.0}
SETTINGS = fit_settings(
    epochs=3,
    batch_size=8,
    learning_rate=3e-3,
    n_train_iter=30,  # 4 steps an epoch, the last of 6 windows
    n_val_iter=20,
    log_interval=3,
    seed=7,
    settings_key="a",
)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_windows(seed: int, instruments: int = 2, bars: int = 40) -> Windows:
    """Random walks as the store lays them out, every window of the right length."""
    rng = np.random.default_rng(seed)
    close = 50 + rng.normal(size=(instruments, bars)).cumsum(axis=1)
    open_ = close + rng.normal(size=close.shape) * 0.1
    high, low = np.maximum(open_, close) + 0.2, np.minimum(open_, close) - 0.2
    volume = rng.lognormal(size=close.shape) * 1e3
    values = np.stack((open_, high, low, close, volume, volume * close), axis=-1)
    day = np.arange(bars)
    zero = np.zeros(bars)
    store = SimpleNamespace(
        values=values.reshape(-1, 6).astype(np.float32),
        session=np.tile(day, instruments).astype(np.int32),
        instruments=tuple("ABCDEFGH"[:instruments]),
        instrument_of_row=np.repeat(np.arange(instruments), bars),
        times=np.tile(day, instruments) * 86_400 * 10**9,
        stamps=np.stack((zero, zero, day % 5, day % 28 + 1, day // 28 + 1), axis=-1).astype(np.int64),
    )
    starts = np.concatenate([i * bars + np.arange(bars - LENGTH + 1) for i in range(instruments)])
    split = Split(name="train", first_session=0, last_session=bars - 1, starts=starts, length=LENGTH)
    return Windows(store, split, lookback=LOOKBACK, clip=5.0, seed=7)


TRAIN, VAL = make_windows(1), make_windows(2)


def make_tokenizer() -> KronosTokenizer:
    quantizer = {"beta": 0.05, "gamma0": 1.0, "gamma": 1.1, "zeta": 0.05, "group_size": 4}
    layers = {"n_enc_layers": 2, "n_dec_layers": 2}
    return KronosTokenizer(d_in=6, **SHAPE, **layers, resid_dropout_p=0.0, **BITS, **quantizer)


def make_predictor(dropout: float = 0.1, seed: int = 3) -> Kronos:
    """With dropout, so that a resumed run depends on torch's random state."""
    seed_everything(seed)
    return Kronos(
        **SHAPE, **BITS, n_layers=1, resid_dropout_p=dropout, token_dropout_p=dropout, learn_te=True
    )


def predictor_objective() -> PredictorObjective:
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return PredictorObjective(make_tokenizer(), LOOKBACK, HORIZON)


class Reports(list):
    """The calls of `report`: (step, metrics)."""

    def __call__(self, step, metrics):
        self.append((step, dict(metrics)))

    def rows(self):
        """Return the reports without the speed, which differs between runs."""
        return [
            (step, name, value)
            for step, metrics in self
            for name, value in metrics.items()
            if name != "windows_per_second"
        ]


def run(folder: Path, settings=SETTINGS, *, model=None, objective=None, train=TRAIN, val=VAL, **options):
    model = make_predictor() if model is None else model
    objective = predictor_objective() if objective is None else objective
    reports = options.pop("report", Reports())
    options = {"runtime": CPU, "report": reports, **options}
    result = fit(model, objective, train, val, settings=settings, folder=folder, **options)
    return SimpleNamespace(model=model, reports=reports, result=result, folder=folder)


def saved(folder: Path):
    """Return everything in `last`, without times."""
    last = folder / "checkpoints" / "last"
    document = json.loads((last / "training.json").read_text())
    for name in ("seconds", "interval_seconds"):
        document["loop"].pop(name)
    del document["own_digest"]
    return load_file(last / "model.safetensors"), load_file(last / "training.safetensors"), document


def assert_same_run(folder: Path, other: Path):
    for one, two in zip(saved(folder), saved(other), strict=True):
        if "loop" in one:
            assert one == two
        else:
            assert one.keys() == two.keys()
            assert all(torch.equal(one[name], two[name]) for name in one)
    best, other_best = (
        load_file(f / "checkpoints" / "best_model" / "model.safetensors") for f in (folder, other)
    )
    assert all(torch.equal(best[name], other_best[name]) for name in best)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The run that goes from start to end; what resumed runs must equal."""
    return run(tmp_path_factory.mktemp("straight"))


class Line(torch.nn.Module):
    """A model of one number, for what the loop does around it."""

    def __init__(self) -> None:
        super().__init__()
        self.config = {"kind": "line"}
        self.weight = torch.nn.Parameter(torch.tensor([2.0]))


class Recorder:
    """Loss = mean of weight x window; remembers the windows; validation losses as told."""

    name = "recorder"

    def __init__(self, values=()):
        self.values, self.windows, self.scored = list(values), [], 0

    def loss(self, model, batch):
        self.windows.append(batch.window.tolist())
        loss = (model.weight * batch.window).mean()
        return loss, {"train_part": loss.detach() * 2}

    def score(self, model, batch):
        value = self.values[
            min(self.scored // 2, len(self.values) - 1)
        ]  # validation, then the training subset
        self.scored += 1
        return {"val_loss": (torch.tensor(value, dtype=torch.float64) * len(batch.window), len(batch.window))}


class Numbers:
    """`n` windows without bars."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def batch(self, indices, epoch):
        none = torch.zeros(len(indices))
        return Batch(none, none, torch.from_numpy(np.asarray(indices)), none)


def count(folder, objective=None, n=10, **changes):
    settings = fit_settings(
        **{"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "log_interval": 1, **changes}
    )
    objective = objective or Recorder([1.0])
    found = run(folder, settings, model=Line(), objective=objective, train=Numbers(n), val=Numbers(3))
    return found, objective


def test_an_epoch_takes_each_window_once_and_keeps_the_last_partial_batch(tmp_path):
    found, objective = count(tmp_path, n=10)
    sizes = [len(windows) for windows in objective.windows]
    assert sizes == [4, 4, 2] * 2
    for epoch in (objective.windows[:3], objective.windows[3:]):
        assert sorted(chain.from_iterable(epoch)) == list(range(10))
    assert objective.windows[:3] != objective.windows[3:]
    assert found.result.steps == 6


def test_budgets_count_windows_and_the_plan_says_the_arithmetic(tmp_path):
    found, objective = count(tmp_path, n=100, n_train_iter=11, accumulation_steps=2)
    assert [len(windows) for windows in objective.windows] == [4, 4, 3] * 2
    assert found.result.steps == 4  # 8 and 3 windows, twice
    settings = fit_settings(epochs=2, batch_size=4, learning_rate=1.0, n_train_iter=11, accumulation_steps=2)
    arithmetic = plan(settings, WindowOrder(100, 11, 0))
    assert (arithmetic.effective_batch, arithmetic.steps_per_epoch, arithmetic.total_steps) == (8, 2, 4)
    assert (
        "effective batch 8" in arithmetic.text and "11 of 100 windows per epoch = 2 steps" in arithmetic.text
    )


def test_every_window_weighs_the_same_in_a_step_of_unequal_parts(tmp_path):
    found, objective = count(tmp_path, n=7, accumulation_steps=2, epochs=1, clip_norm=0.0)
    (_, metrics), *_ = [entry for entry in found.reports if "train_loss" in entry[1]]
    assert metrics["train_loss"] == pytest.approx(2.0 * np.mean(range(7)))
    assert metrics["train_part"] == pytest.approx(4.0 * np.mean(range(7)))
    assert metrics["grad_norm"] == pytest.approx(np.mean(range(7)))
    assert [len(windows) for windows in objective.windows] == [4, 3]


def test_accumulating_equals_the_larger_batch(tmp_path):
    one = run(tmp_path / "one", model=make_predictor(dropout=0.0))
    parts = changed(SETTINGS, batch_size=4, accumulation_steps=2)
    two = run(tmp_path / "two", parts, model=make_predictor(dropout=0.0))
    for (step, name, value), (other_step, other_name, other) in zip(
        one.reports.rows(), two.reports.rows(), strict=True
    ):
        assert (step, name) == (other_step, other_name)
        assert other == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("cycle", [False, True])
def test_learning_rates_are_those_of_the_public_schedule(tmp_path, cycle):
    found, _ = count(tmp_path, n=100, epochs=2, batch_size=2, cycle_momentum=cycle)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1e-2, total_steps=100, pct_start=0.03, div_factor=10
    )
    expected = []
    for _ in range(100):
        expected.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert [rate for _, rate in found.result.learning_rates] == expected
    betas = saved(tmp_path)[2]["optimizer"][0]["betas"]
    assert betas == ([pytest.approx(0.95, abs=1e-3), 0.95] if cycle else [0.9, 0.95])


def test_a_warm_up_of_exactly_one_step_does_not_divide_by_zero(tmp_path):
    found, _ = count(tmp_path, n=40, epochs=2, warmup_fraction=0.05)  # 20 steps x 0.05
    assert found.result.steps == 20
    assert found.result.learning_rates[0][1] == pytest.approx(1e-2, rel=0.02)


def test_a_flat_schedule_is_torchs_own_parts_in_sequence(tmp_path):
    """Up over 10 % of 50 steps, flat, down over 30 %: LinearLR, ConstantLR and LinearLR, one after the other."""
    schedule = {"lr_schedule": "warmup_stable_decay", "warmup_fraction": 0.1, "decay_fraction": 0.3}
    found, _ = count(tmp_path, n=100, epochs=1, batch_size=2, **schedule)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-2)
    parts = torch.optim.lr_scheduler
    expected = parts.SequentialLR(
        optimizer,
        [
            parts.LinearLR(optimizer, 1 / 5, 1.0, 4),
            parts.ConstantLR(optimizer, 1.0, 1),
            parts.LinearLR(optimizer, 1.0, 1e-9, 15),
        ],
        [4, 35],
    )
    for _, rate in found.result.learning_rates:
        assert rate == pytest.approx(expected.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        expected.step()
    assert len(found.result.learning_rates) == 50


def test_the_averaged_weights_are_scored_and_kept(tmp_path):
    """Equal to the average by its definition, of the weights that the loss saw at each step."""
    weights, scored = [], []

    class Watched(Recorder):
        def loss(self, model, batch):
            weights.append(model.weight.item())
            return super().loss(model, batch)

        def score(self, model, batch):
            scored.append(model.weight.item())
            return super().score(model, batch)

    count(tmp_path, Watched([3.0, 2.0, 1.0]), epochs=2, batch_size=2, ema_decay=0.5)
    last = load_file(tmp_path / "checkpoints" / "last" / "model.safetensors")["weight"].item()
    average = weights[0]
    for step, weight in enumerate([*weights[1:], last]):
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight
        if step == 4:
            assert scored[2] == pytest.approx(average, abs=1e-5)
    best = load_file(tmp_path / "checkpoints" / "best_model" / "model.safetensors")["weight"].item()
    assert best == scored[-1] == pytest.approx(average, abs=1e-5)
    assert abs(best - last) > 1e-4


def test_training_lowers_the_validation_loss_of_tokenizer_and_predictor(tmp_path):
    seed_everything(5)
    settings = changed(SETTINGS, epochs=6, learning_rate=1e-2, n_train_iter=100)
    tokenizer = run(
        tmp_path / "t", settings, model=make_tokenizer(), objective=TokenizerObjective(LOOKBACK, HORIZON)
    )
    first, *_, last = [entry["val_loss"] for entry in tokenizer.result.curve]
    assert last < 0.8 * first
    predictor = run(
        tmp_path / "p",
        settings,
        model=make_predictor(0.0),
        objective=PredictorObjective(tokenizer.model, LOOKBACK, HORIZON),
    )
    first, *_, last = [entry["val_loss"] for entry in predictor.result.curve]
    assert last < 0.95 * first
    assert predictor.result.curve[-1]["train_eval_loss"] < predictor.result.curve[0]["train_eval_loss"]


def test_reports_and_curve_carry_the_agreed_names(straight):
    training = [(step, metrics) for step, metrics in straight.reports if "train_loss" in metrics]
    assert [step for step, _ in training] == [3, 4, 6, 8, 9, 12]  # each 3 steps, and where an epoch ends
    for step, metrics in training:
        assert {"train_loss", "learning_rate", "log10_learning_rate", "grad_norm"} <= metrics.keys()
        assert {"windows_per_second", "epoch", "train_coarse", "train_fine"} <= metrics.keys()
        assert metrics["log10_learning_rate"] == pytest.approx(math.log10(metrics["learning_rate"]))
        assert metrics["epoch"] == step / 4
        assert metrics["train_loss"] == pytest.approx((metrics["train_coarse"] + metrics["train_fine"]) / 2)
    evaluations = [(step, metrics) for step, metrics in straight.reports if "val_loss" in metrics]
    assert [step for step, _ in evaluations] == [0, 4, 8, 12]
    names = {"val_loss", "val_loss_window", "val_coarse", "val_fine", "train_eval_loss"}
    names |= {"val_perplexity_coarse", "val_perplexity_fine"}
    assert all(metrics.keys() == names for _, metrics in evaluations)
    result = straight.result
    assert [entry["step"] for entry in result.curve] == [0, 4, 8, 12]
    assert "train_loss" not in result.curve[0] and "train_loss" in result.curve[1]
    assert [step for step, _ in result.learning_rates] == [3, 4, 6, 8, 9, 12]
    assert result.steps == 12 and result.resumed_from is None
    assert not result.interrupted and not result.stopped_early
    assert set(result.seconds) == {"data", "step", "evaluate", "save", "total"}
    parts = sum(value for name, value in result.seconds.items() if name != "total")
    assert 0.9 * result.seconds["total"] < parts <= result.seconds["total"]
    assert result.windows_per_second > 0
    json.dumps(result.curve)


def test_the_best_model_scores_the_lowest_val_loss_again(straight):
    lowest = min(straight.result.curve, key=lambda entry: entry["val_loss"])
    assert (straight.result.best_value, straight.result.best_step) == (lowest["val_loss"], lowest["step"])
    best = Kronos.from_pretrained(straight.folder / "checkpoints" / "best_model")
    chosen = epoch_order(len(VAL), 20, SETTINGS.training.seed, None)
    with torch.inference_mode():
        total, number = predictor_objective().score(best, VAL.batch(chosen, None))["val_loss"]
    assert number == 20 * HORIZON
    assert (total / number).item() == lowest["val_loss"]


def test_best_is_the_lowest_evaluation_not_the_last(tmp_path):
    found, _ = count(tmp_path, Recorder([5.0, 2.0, 3.0, 4.0]), epochs=3)
    assert (found.result.best_value, found.result.best_step) == (2.0, 3)
    best = load_file(tmp_path / "checkpoints" / "best_model" / "model.safetensors")["weight"]
    assert not torch.equal(best, found.model.weight.detach())


def test_the_same_seed_gives_identical_losses(tmp_path, straight):
    again = run(tmp_path)
    assert again.reports.rows() == straight.reports.rows()
    assert_same_run(again.folder, straight.folder)
    other = run(tmp_path / "other", changed(SETTINGS, seed=8))
    assert other.reports.rows() != straight.reports.rows()


@pytest.mark.parametrize("stop_at", range(0, 12))
def test_resumed_run_equals_straight_run(tmp_path, straight, stop_at):
    """Stopped at any step, mid-epoch and at the ends of epochs, then resumed by a new model."""
    reached = []
    first = run(
        tmp_path,
        progress=lambda step, total, metrics: reached.append(step),
        stop_requested=lambda: bool(reached) and reached[-1] >= stop_at,
    )
    assert first.result.interrupted and first.result.steps == stop_at
    torch.manual_seed(12345)  # another process's random state
    second = run(tmp_path, model=make_predictor(seed=99), resume=True)
    assert second.result.resumed_from == stop_at
    assert not second.result.interrupted
    assert first.reports.rows() + second.reports.rows() == straight.reports.rows()
    assert second.result.curve == straight.result.curve
    assert second.result.learning_rates == straight.result.learning_rates
    assert_same_run(tmp_path, straight.folder)
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_a_resumed_run_with_averaged_weights_and_a_flat_schedule_equals_the_straight_one(tmp_path):
    settings = changed(SETTINGS, ema_decay=0.9, lr_schedule="warmup_stable_decay")
    straight, reached = run(tmp_path / "straight", settings), []
    run(
        tmp_path / "other",
        settings,
        progress=lambda step, *_: reached.append(step),
        stop_requested=lambda: reached[-1:] == [6],
    )
    second = run(tmp_path / "other", settings, model=make_predictor(seed=99), resume=True)
    assert second.result.resumed_from == 6
    assert second.result.curve == straight.result.curve
    assert second.result.learning_rates == straight.result.learning_rates
    assert_same_run(tmp_path / "other", straight.folder)
    plain = run(tmp_path / "plain", changed(settings, ema_decay=0.0))
    weights = saved(straight.folder)[0]
    assert all(torch.equal(weight, weights[name]) for name, weight in saved(plain.folder)[0].items())
    assert plain.result.best_value != straight.result.best_value


def test_resuming_a_finished_run_trains_and_reports_nothing(tmp_path, straight):
    run(tmp_path)
    again = run(tmp_path, model=make_predictor(seed=99), resume=True)
    assert again.result.resumed_from == again.result.steps == 12
    assert again.reports == []
    assert again.result.curve == straight.result.curve


def test_a_run_that_dies_between_saves_goes_on_from_the_last_one(tmp_path, straight):
    class Crash(Exception):
        pass

    def crash(step, total, metrics):
        if step == 7:
            raise Crash

    settings = changed(SETTINGS, save_windows=10)  # 2 steps of 8 windows
    with pytest.raises(Crash):
        run(tmp_path, settings, progress=crash)
    assert json.loads((tmp_path / "checkpoints/last/training.json").read_text())["loop"]["step"] == 6
    second = run(tmp_path, settings, model=make_predictor(seed=99), resume=True)
    assert second.result.resumed_from == 6
    assert_same_run(tmp_path, straight.folder)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("renames", range(1, 28))
def test_a_run_killed_at_any_rename_resumes_to_the_straight_run(tmp_path, straight, renames):
    child = os.fork()
    if child == 0:  # the child never returns
        seen = 0

        def counted(original):
            def rename(*arguments):
                nonlocal seen
                seen += 1
                if seen == renames:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*arguments)

            return rename

        os.rename, os.replace = counted(os.rename), counted(os.replace)
        try:
            run(tmp_path)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    second = run(tmp_path, resume=True)
    assert second.result.curve == straight.result.curve
    assert_same_run(tmp_path, straight.folder)
    assert {entry.name for entry in (tmp_path / "checkpoints").iterdir()} == {"best_model", "last"}


def test_an_interrupted_save_leaves_the_previous_checkpoint_whole(tmp_path, straight, monkeypatch):
    written, original = [], training_state.save_file

    def disk_full(tensors, path):
        written.append(path)
        if len(written) == 3:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        original(tensors, path)

    monkeypatch.setattr(training_state, "save_file", disk_full)
    with pytest.raises(UserError, match=r"cannot save step 8 to .*last.*No space left.*before it is whole"):
        run(tmp_path)
    monkeypatch.undo()
    assert saved(tmp_path)[2]["loop"]["step"] == 4
    second = run(tmp_path, model=make_predictor(seed=99), resume=True)
    assert second.result.resumed_from == 4
    assert_same_run(tmp_path, straight.folder)


def test_metrics_are_flushed_before_a_checkpoint_takes_its_name(tmp_path):
    reports, flushed = Reports(), []

    def before_save():
        last = tmp_path / "checkpoints/last/training.json"
        step = json.loads(last.read_text())["loop"]["step"] if last.exists() else None
        flushed.append((reports[-1][0], step))

    run(tmp_path, report=reports, before_save=before_save)
    assert flushed == [(0, None), (4, 0), (8, 4), (12, 8)]


def test_a_stop_during_evaluation_saves_and_the_evaluation_is_made_on_resume(tmp_path, straight):
    reached, polled = [], []

    def stop():
        if reached and reached[-1] == 8:
            polled.append(True)
        return len(polled) == 2  # asked once, in the middle of the evaluation

    settings = changed(SETTINGS, eval_batch_size=20)
    first = run(tmp_path, settings, progress=lambda step, *_: reached.append(step), stop_requested=stop)
    assert first.result.interrupted and first.result.steps == 8
    assert [entry["step"] for entry in first.result.curve] == [0, 4]
    second = run(tmp_path, settings, model=make_predictor(seed=99), resume=True)
    assert second.result.curve == straight.result.curve
    assert_same_run(tmp_path, straight.folder)


def test_early_stopping_counts_evaluations_without_improvement(tmp_path):
    objective = Recorder([5.0, 3.0, 4.0, 3.5, 1.0])
    found, _ = count(tmp_path, objective, epochs=4, early_stopping_patience=2)
    assert found.result.stopped_early and found.result.steps == 9
    assert (found.result.best_value, found.result.best_step) == (3.0, 3)
    again = run(
        tmp_path,
        fit_settings(epochs=4, batch_size=4, learning_rate=1e-2, log_interval=1, early_stopping_patience=2),
        model=Line(),
        objective=Recorder([0.0]),
        train=Numbers(10),
        val=Numbers(3),
        resume=True,
    )
    assert again.result.steps == 9 and again.result.stopped_early and not again.reports


class FailsAt:
    """The predictor's objective with one loss that is not finite."""

    name = "fails"

    def __init__(self, step, gradient_only=False):
        self.inner, self.step, self.gradient_only, self.calls = predictor_objective(), step, gradient_only, 0
        self.score = self.inner.score

    def loss(self, model, batch):
        self.calls += 1
        loss, parts = self.inner.loss(model, batch)
        if self.calls == self.step:
            if self.gradient_only:
                loss.register_hook(lambda gradient: gradient * math.nan)
            else:
                loss = loss * math.inf
        return loss, parts


@pytest.mark.parametrize("gradient_only", [False, True])
def test_a_loss_or_gradient_that_is_not_finite_stops_before_the_optimizer(tmp_path, gradient_only, straight):
    model = make_predictor()
    with pytest.raises(TrainingStopped) as stopped:
        run(tmp_path, model=model, objective=FailsAt(6, gradient_only))
    error = stopped.value
    windows = epoch_order(len(TRAIN), 30, SETTINGS.training.seed, 1)[8:16].tolist()
    assert (error.step, error.windows) == (6, windows)
    assert error.learning_rate == pytest.approx(error.learning_rate) and error.learning_rate > 0
    message = str(error)
    assert message.startswith(f"step 6: train_loss is {'' if gradient_only else 'inf'}")
    assert f"learning rate {error.learning_rate:.3g}" in message
    instrument, first = divmod(int(TRAIN.split.starts[windows[0]]), 40)
    days = [str(np.datetime64("1970-01-01") + bar) for bar in (first, first + LENGTH - 1)]
    assert f"windows {windows[0]} ({'AB'[instrument]} {days[0]} to {days[1]}), {windows[1]} (" in message
    assert "checkpoint of step 4 is whole" in message
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert saved(tmp_path)[2]["loop"]["step"] == 4
    run(tmp_path, model=make_predictor(seed=99), resume=True)
    assert_same_run(tmp_path, straight.folder)


def test_a_validation_loss_that_is_not_finite_names_its_windows(tmp_path):
    with pytest.raises(
        TrainingStopped, match=r"the loss of validation is nan.*windows 0, 1, 2;.*nothing was saved"
    ):
        count(tmp_path, Recorder([math.nan]))


def test_what_does_not_fit_is_refused(tmp_path):
    run(tmp_path, changed(SETTINGS, epochs=1))
    with pytest.raises(UserError, match=r"trained with other settings \(key a, now b\)"):
        run(tmp_path, changed(SETTINGS, epochs=1, settings_key="b"), resume=True)
    with pytest.raises(UserError, match="damaged or of another model"):
        seed_everything(1)
        run(tmp_path, changed(SETTINGS, epochs=1), model=make_tokenizer(), resume=True)
    last = tmp_path / "checkpoints" / "last"
    whole = (last / "training.safetensors").read_bytes()
    (last / "training.safetensors").write_bytes(whole[:100])
    with pytest.raises(UserError, match=r"training\.safetensors is damaged: it was altered.*resume=never"):
        run(tmp_path, changed(SETTINGS, epochs=1), resume=True)
    (last / "training.safetensors").unlink()
    with pytest.raises(UserError, match=r"training\.safetensors is missing; train anew with resume=never"):
        run(tmp_path, changed(SETTINGS, epochs=1), resume=True)
    (last / "training.safetensors").write_bytes(whole)
    (tmp_path / "checkpoints" / "best_model" / "digests.json").unlink()
    (tmp_path / "checkpoints" / "best_model" / "config.json").unlink()
    (tmp_path / "checkpoints" / "best_model" / "model.safetensors").unlink()
    (tmp_path / "checkpoints" / "best_model").rmdir()
    with pytest.raises(UserError, match="best_model is gone"):
        run(tmp_path, changed(SETTINGS, epochs=1), resume=True)


def test_empty_windows_are_refused(tmp_path):
    for arguments, said in (
        ({"train": Numbers(0), "val": Numbers(1)}, "training has no window"),
        ({"train": Numbers(1), "val": Numbers(0)}, "validation has no window"),
    ):
        with pytest.raises(UserError, match=said):
            run(tmp_path, model=Line(), objective=Recorder([1.0]), **arguments)
    assert not list(tmp_path.iterdir())


def test_only_what_may_be_trained_is_trained(tmp_path):
    model = make_predictor()
    model.embedding.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run(tmp_path, model=model)
    for name, value in model.state_dict().items():
        frozen = name.startswith("embedding.")
        assert torch.equal(before[name], value) == (frozen or "inv_freq" in name), name
    resumed = make_predictor(seed=99)
    resumed.embedding.requires_grad_(False)
    assert run(tmp_path, model=resumed, resume=True).result.steps == 12
