"""The configuration of a run: its sections, given and read flat by the fields' names.

Outside the package a configuration is flat: the command line, JSON files, MLproject, MLflow's parameters and a search
spell a field by its name alone. Inside, its sections (`config.training`) are handed on whole. Building a `Config`
checks every field and reports all problems together.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic.fields import FieldInfo

from kronos.config.evaluation_sections import (
    AuditConfig,
    BacktestConfig,
    BenchmarkConfig,
    EmbedConfig,
    GenerateConfig,
    HeadConfig,
    RefitConfig,
    UpdateConfig,
)
from kronos.config.search_section import SearchConfig
from kronos.config.section import Section
from kronos.config.sections import (
    DataConfig,
    ForecastConfig,
    LaunchConfig,
    ModelConfig,
    OutputConfig,
    RegistryConfig,
    TrackingConfig,
    TrainingConfig,
)
from kronos.config.validation import contradictions


class Config(BaseModel):
    """The settings of one run, in sections; fields are given, read and written flat, by their names.

    `Config(epochs=3)` and `config.epochs` stand for `Config(training=TrainingConfig(epochs=3))` and
    `config.training.epochs`. `kronos.config.loading.load_config` builds one from a file and flags.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    launch: LaunchConfig = LaunchConfig()
    output: OutputConfig = OutputConfig()
    forecast: ForecastConfig = ForecastConfig()
    backtest: BacktestConfig = BacktestConfig()
    audit: AuditConfig = AuditConfig()
    generate: GenerateConfig = GenerateConfig()
    embed: EmbedConfig = EmbedConfig()
    head: HeadConfig = HeadConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig()
    refit: RefitConfig = RefitConfig()
    update: UpdateConfig = UpdateConfig()
    tracking: TrackingConfig = TrackingConfig()
    registry: RegistryConfig = RegistryConfig()
    search: SearchConfig = SearchConfig()

    @model_validator(mode="before")
    @classmethod
    def _into_sections(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        nested: dict[str, Any] = {}
        for name, value in given.items():
            if name in cls.model_fields and isinstance(value, Section | Mapping):
                fields = value.model_dump() if isinstance(value, Section) else dict(value)
                nested.setdefault(name, {}).update(fields)
            elif name in SECTION_OF:
                nested.setdefault(SECTION_OF[name], {})[name] = value
            else:
                nested[name] = value  # refused by extra="forbid"
        return nested

    @model_serializer(mode="wrap")
    def _flat(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for section in handler(self).values() for name, value in section.items()}

    @model_validator(mode="after")
    def _check_together(self) -> "Config":
        problems = list(contradictions(self))
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def __getattr__(self, name: str) -> Any:
        section = SECTION_OF.get(name)
        if section is None:
            raise AttributeError(f"the configuration has no field {name!r}")
        return getattr(getattr(self, section), name)

    def replace(self, **fields: Any) -> "Config":
        """A configuration with some fields changed, checked as a whole. Raises pydantic's ValidationError."""
        return Config.model_validate({**self.model_dump(), **fields})

    @property
    def window_length(self) -> int:
        """Bars of a training window: lookback + horizon + the next token that the predictor is trained on."""
        return self.data.lookback_window + self.data.predict_window + 1

    def members(self) -> "tuple[Config, ...]":
        """One configuration per predictor of an ensemble; the configuration itself where there is none."""
        paths = self.output.predictor_path or ()
        if len(paths) < 2:
            return (self,)
        return tuple(self.replace(predictor_path=[path], registered_model_name=None) for path in paths)

    def model_folder(self, kind: str) -> Path:
        """The folder of the tokenizer or the predictor."""
        names = {
            "tokenizer": self.output.tokenizer_save_folder_name,
            "predictor": self.output.predictor_save_folder_name,
        }
        return Path(self.output.save_path) / names[kind]

    @property
    def calibration_folder(self) -> Path:
        return self.model_folder("predictor") / "calibration"

    @property
    def head_folder(self) -> Path:
        return Path(self.output.save_path) / f"{self.head.head_save_folder_name}_{self.head.objective}"

    @property
    def predict_folder(self) -> Path:
        return Path(self.output.predict_result_path) / self.output.predict_save_folder_name

    @property
    def backtest_folder(self) -> Path:
        return Path(self.output.backtest_result_path) / self.output.backtest_save_folder_name

    def values(self) -> dict[str, Any]:
        """Every field's value by its name, in the order of definition."""
        return {name: getattr(getattr(self, section), name) for name, section in SECTION_OF.items()}


SECTIONS: dict[str, type[Section]] = {
    name: field.annotation  # type: ignore[misc]
    for name, field in Config.model_fields.items()
}
FIELDS: dict[str, FieldInfo] = {
    name: field for section in SECTIONS.values() for name, field in section.model_fields.items()
}
SECTION_OF: dict[str, str] = {
    name: section for section, model in SECTIONS.items() for name in model.model_fields
}


def fields_of(*sections: str) -> tuple[str, ...]:
    """Names of the fields of these sections, in the order of definition."""
    return tuple(name for name, section in SECTION_OF.items() if section in sections)
