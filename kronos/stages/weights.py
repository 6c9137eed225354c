"""Load the weights that stages read, with the digest of their tensors and the record of the stage that made them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kronos.config.registries import TIME_FEATURES
from kronos.config.schema import Config
from kronos.data.conditions import unknown_categories
from kronos.data.extra_columns import model_columns
from kronos.data.splits import Ranges
from kronos.data.store import BarStore
from kronos.stages.cache import SAME_MODEL, read_record, refuse_other_configuration, run_again
from kronos.stages.inputs import field_texts
from kronos.tracking.model_registry import ADDRESSES, source_run, weights
from kronos.tracking.reader import TAG
from kronos.utils.digests import altered
from kronos.utils.errors import Damaged, UserError
from kronos.utils.files import RECORD, digest_bytes, given_path

Kind = Literal["tokenizer", "predictor"]
KINDS: tuple[Kind, ...] = ("tokenizer", "predictor")
OWN_TOKENIZER = (
    "checkpoints/tokenizer"  # in a predictor's folder: a copy of the tokenizer that it was trained with
)
UNCHECKED = (
    "the predictor has no record of the tokenizer that it was trained with: whether the tokenizer is the right one "
    "cannot be checked"
)


@dataclass(frozen=True)
class Weights:
    """A loaded model, the digest of its tensors, and the record of the stage that made it (empty if unknown)."""

    model: Any
    digest: str
    record: Mapping[str, Any]

    @property
    def made_from(self) -> Mapping[str, Any]:
        """The parts of the cache key that the weights were made with."""
        found: Mapping[str, Any] = self.record.get("made_from", {})
        return found


def load_weights(kind: Kind, address: str, uri: str | None) -> Weights:
    """Load weights from a folder, the Hub, `runs:/...` or `models:/...`, with their digest and record."""
    from kronos.model import checkpoint, load_predictor, load_tokenizer

    load = load_tokenizer if kind == "tokenizer" else load_predictor
    if not address.startswith(ADDRESSES):
        _check_stage_files(kind, given_path(address).absolute())
    try:
        model = load(weights(address, kind, uri))
    except Damaged as error:
        if Path(address).parent.name != "checkpoints":  # not written by a stage
            raise
        copy = Path(address).name == Path(OWN_TOKENIZER).name
        raise Damaged(error.what, run_again("predictor" if copy else kind)) from None
    record: Mapping[str, Any] = {} if address.startswith(ADDRESSES) else record_of_weights(address)
    if kind == "predictor" and address.startswith(ADDRESSES):
        digest = source_run(address, f"{kind}_path", uri).tags.get(TAG + "tokenizer_digest")
        record = {"made_from": {"inputs": {"tokenizer": digest}}} if digest else {}
    return Weights(model, checkpoint.digest(model), record)


def given_address(kind: Kind, config: Config) -> str | None:
    """Address of the weights that the configuration names; None where those trained by its own stages are used.

    Of an ensemble, that of its first predictor: see `Config.members`.
    """
    first = (config.output.predictor_path or (None,))[0]
    paths = {"tokenizer": config.output.tokenizer_path, "predictor": first}
    if paths[kind] is None and kind == "tokenizer" and config.training.freeze_tokenizer:
        return config.model.pretrained_tokenizer_path
    return paths[kind]


def pretrained_address(kind: Kind, config: Config) -> str | None:
    """Address of the weights that training starts from; None for random initialization."""
    model = config.model
    return model.pretrained_tokenizer_path if kind == "tokenizer" else model.pretrained_predictor_path


def trained_weights(kind: Kind, config: Config, store: BarStore, splits: Ranges | None) -> Weights:
    """The weights for later stages: those that the configuration names, else those trained on these bars and splits.

    Without splits only those that the configuration names. Raises UserError where there are none, or where the
    trained ones are from another configuration.
    """
    given = given_address(kind, config)
    if given is not None:
        return refuse_other_features(
            load_weights(kind, given, config.tracking.tracking_uri), kind, config, given
        )
    if splits is None:
        raise UserError(f"no {kind} is named: give --{kind}-path")
    folder = config.model_folder(kind)
    best = folder / "checkpoints" / "best_model"
    if not best.is_dir():
        raise UserError(f"no {kind} at {best}: run  python -m kronos {kind}  or give --{kind}-path")
    remedy = f"run  python -m kronos {kind}  again, or give --{kind}-path to use other weights"
    inputs = {"bars": store.digest, "splits": splits.text()}
    refuse_other_configuration(folder, f"the {kind}", remedy, field_texts(config, SAME_MODEL), inputs)
    return refuse_other_features(load_weights(kind, str(best), None), kind, config, str(best))


def with_columns_of_model(config: Config) -> Config:
    """The configuration with the columns of the tokenizer that it names as its feature_list."""
    address = given_address("tokenizer", config)
    if address is None:
        return config
    columns = load_weights("tokenizer", address, config.tracking.tracking_uri).model.columns
    return config if columns == model_columns(config.data) else config.replace(feature_list=columns)


def refuse_other_features(weights: Weights, kind: Kind, config: Config, address: str) -> Weights:
    """Return the weights. Raises UserError for a tokenizer of other columns than those of `feature_list`."""
    if kind == "predictor":
        return weights
    own, asked = weights.model.columns, model_columns(config.data)
    if own != asked:
        raise UserError(
            f"feature_list: {', '.join(asked)} is given, and the tokenizer at {address} sees {', '.join(own)}: give "
            f"--feature-list {','.join(own)}, or a tokenizer of these columns (those of a new one are trained from "
            "random weights, with --pretrained-tokenizer-path none and --pretrained-predictor-path none)"
        )
    return weights


def trained_pair(
    config: Config, store: BarStore, splits: Ranges | None
) -> tuple[Weights, Weights, tuple[str, ...]]:
    """(tokenizer, predictor, lines to print): the predictor, and the tokenizer that it was trained with.

    If the configured tokenizer is a different one, the copy stored with the predictor is used. A predictor without a
    record of its tokenizer is accepted, with a note that the tokenizer cannot be checked.

    Raises:
        UserError: where the tokenizer is a different one and there is no copy, since a predictor's forecasts are
            meaningless with the token ids of another tokenizer.
    """
    tokenizer, problem = None, None
    try:
        tokenizer = trained_weights("tokenizer", config, store, splits)
    except Damaged:
        raise
    except UserError as error:
        problem = error
    try:
        predictor = trained_weights("predictor", config, store, splits)
    except UserError as error:
        raise problem or error from None
    refuse_other_conditions(config, predictor.model.config, "the predictor")
    refuse_other_time_features(config, predictor.model.config, "the predictor")
    notes = unknown_values(store, predictor.model.config)
    wanted = predictor.made_from.get("inputs", {}).get("tokenizer")
    if tokenizer is not None and wanted is None:
        return tokenizer, predictor, (UNCHECKED, *notes)
    if tokenizer is not None and wanted == tokenizer.digest:
        return tokenizer, predictor, notes
    if wanted is not None and config.output.tokenizer_path is None:
        own = _own_tokenizer(config)
        if own is not None and own.digest == wanted:
            note = (
                "the predictor was trained with another tokenizer than the stored one: its own copy is used"
            )
            return own, predictor, (note, *notes)
    if tokenizer is not None:
        problem = UserError(
            "the predictor was trained with another tokenizer than this one (they were not trained together): "
            "give --tokenizer-path of the right tokenizer, or run  python -m kronos predictor"
        )
    assert problem is not None
    raise problem


def refuse_other_conditions(config: Config, described: Mapping[str, Any], what: str) -> None:
    """Raise UserError where the configuration names other conditions than a predictor has; none are its own."""
    asked = config.data.condition_columns
    own = [column["name"] for column in described.get("conditions", {"columns": []})["columns"]]
    if asked and sorted(asked) != sorted(own):
        has = f"has {', '.join(own)}" if own else "was trained without conditions"
        raise UserError(
            f"condition_columns: {','.join(asked)} was given, but {what} {has}: give the same, or leave them out"
        )


def refuse_other_time_features(config: Config, described: Mapping[str, Any], what: str) -> None:
    """Raise UserError where the configuration names other time features than a predictor has.

    The default list stands for those that it has.
    """
    asked = config.data.time_feature_list
    own = described.get("time_features", {"names": [*TIME_FEATURES]})["names"]
    if asked != TIME_FEATURES and [*asked] != own:
        raise UserError(
            f"time_feature_list: {','.join(asked)} was given, but {what} has {','.join(own)}: give the same, or "
            "leave it out"
        )


def unknown_values(store: BarStore, described: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a note for each condition that has categories in the store which the predictor does not know."""
    columns = described.get("conditions", {"columns": []})["columns"]
    return tuple(
        f"the predictor does not know {len(names)} of the values of {column} ({', '.join(names[:3])}"
        f"{' and more' * (len(names) > 3)}): they count as missing"
        for column, names in unknown_categories(store, columns).items()
    )


@dataclass(frozen=True)
class Models:
    """The (tokenizer, predictor) pairs that forecast: one, or the members of an ensemble."""

    pairs: tuple[tuple[Weights, Weights], ...]

    @property
    def tokenizer(self) -> Weights:
        """The tokenizer; of an ensemble no model, but a digest of all of them."""
        return self._joined(0)

    @property
    def predictor(self) -> Weights:
        """The predictor; of an ensemble no model, but a digest of all of them."""
        return self._joined(1)

    def _joined(self, place: int) -> Weights:
        parts = [pair[place] for pair in self.pairs]
        if len(parts) == 1:
            return parts[0]
        return Weights(None, digest_bytes("\n".join(one.digest for one in parts).encode()), {})

    def held_out(self) -> tuple[frozenset[str], bool]:
        """(instruments that no training of these models saw, whether weights that they started from may have).

        By the records of the trainings. Weights without a record, such as the public ones, may have seen anything.
        """
        weights = [one for pair in self.pairs for one in pair]
        recorded = [frozenset(one.record["held_out"]) for one in weights if "held_out" in one.record]
        unknown = len(recorded) < len(weights) or any(
            one.record["started_from"]["address"] is not None for one in weights if "held_out" in one.record
        )
        predictors = [pair[1] for pair in self.pairs if "held_out" in pair[1].record]
        if len(predictors) < len(self.pairs):
            return frozenset(), unknown
        return frozenset.intersection(*recorded), unknown

    def named(self) -> dict[str, Weights]:
        """Every model by the name of its folder among the inputs of a run: tokenizer, predictor, tokenizer_2 ..."""
        names = [("tokenizer", "predictor"), *(
            (f"tokenizer_{place}", f"predictor_{place}") for place in range(2, len(self.pairs) + 1)
        )]  # fmt: skip
        return {
            name: one
            for both, pair in zip(names, self.pairs, strict=True)
            for name, one in zip(both, pair, strict=True)
        }


def trained_models(config: Config, store: BarStore, splits: Ranges | None) -> tuple[Models, tuple[str, ...]]:
    """(the models that forecast, lines to print): `trained_pair` for each member of an ensemble."""
    pairs: list[tuple[Weights, Weights]] = []
    notes: list[str] = []
    for one in config.members():
        *pair, lines = trained_pair(one, store, splits)
        pairs.append((pair[0], pair[1]))
        notes += lines
    return Models(tuple(pairs)), tuple(dict.fromkeys(notes))


def _own_tokenizer(config: Config) -> Weights | None:
    """The copy of the tokenizer stored with the configured predictor; None where there is none."""
    address, uri = given_address("predictor", config), config.tracking.tracking_uri
    if address is not None and address.startswith(ADDRESSES):
        try:
            return refuse_other_features(
                load_weights("tokenizer", address, uri), "tokenizer", config, address
            )
        except UserError:
            return None
    folder = config.model_folder("predictor") if address is None else given_path(address).absolute()
    for place in (folder, *folder.parents[:2]):
        if (place / OWN_TOKENIZER).is_dir():
            own = str(place / OWN_TOKENIZER)
            return refuse_other_features(load_weights("tokenizer", own, None), "tokenizer", config, own)
    return None


def record_of_weights(address: str) -> dict[str, Any]:
    """The record of the stage that made the weights in a folder; empty where there is none.

    Raises Damaged where it was altered.
    """
    folder = given_path(address).absolute()
    places = [folder]
    if folder.parent.name == "checkpoints" and folder.name != Path(OWN_TOKENIZER).name:
        places.append(folder.parent.parent)  # the folder of the stage that made them
    for place in places:
        if (place / RECORD).is_file():
            return read_record(place)
    return {}


def _check_stage_files(kind: Kind, folder: Path) -> None:
    """Compare the weights in a stage's folder with the stage's record, which also knows whether a file is missing.

    The digests beside the weights may be deleted by hand; those in the record tell it. Raises Damaged.
    """
    stage = folder.parent.parent
    if folder.parent.name != "checkpoints" or not (stage / RECORD).is_file():
        return
    own = folder.relative_to(stage).as_posix() + "/"
    written = read_record(stage).get("outputs", {})
    for problem in altered(
        stage, {name: one for name, one in written.items() if name.startswith(own)}
    ).values():
        copy = folder.name == Path(OWN_TOKENIZER).name
        raise Damaged(problem, run_again("predictor" if copy else kind))


def weights_before(kind: Kind, trained: Weights, uri: str | None) -> tuple[Weights | None, str]:
    """(the weights that training started from, "") according to the record, or (None, the reason why not)."""
    from kronos.distributed.device import seed_everything
    from kronos.model import checkpoint
    from kronos.model.presets import random_model

    start = trained.record.get("started_from")
    if not start:
        return None, f"the {kind}'s weights have no record of what they were trained from"
    try:
        if start["address"] is not None:
            found = load_weights(kind, start["address"], uri)
        else:
            seed_everything(start["seed"])
            own = "columns" if kind == "tokenizer" else "time_features"
            more = {own: start[own]} if own in start else {}
            model = random_model(kind, start["preset"], more)
            found = Weights(model, checkpoint.digest(model), {})
    except Damaged:
        raise
    except UserError as error:
        return None, f"the weights that the {kind} was trained from cannot be loaded ({error})"
    if found.digest != start["digest"]:
        place = start["address"] or "the same seed"
        return None, f"the weights at {place} are not those that the {kind} was trained from"
    return found, ""


def pair_before(models: Models, uri: str | None) -> tuple[tuple[Weights, Weights] | None, str]:
    """(the tokenizer and predictor that training started from, "") by the records, or (None, the reason why not)."""
    if len(models.pairs) > 1:
        return None, "an ensemble is not compared with the weights before training"
    ((tokenizer, predictor),) = models.pairs
    first, why_not = weights_before("predictor", predictor, uri)
    if first is None:
        return None, f"not compared: {why_not}"
    tokens: Weights | None = tokenizer
    if tokenizer.record.get("started_from"):
        tokens, why_not = weights_before("tokenizer", tokenizer, uri)
    if tokens is None:
        return None, f"not compared: {why_not}"
    if (tokens.digest, first.digest) == (tokenizer.digest, predictor.digest):
        return None, "the same as the model that was evaluated, which was not fine-tuned"
    return (tokens, first), ""
