"""The presets `corrected` and `reference`, each expanded into explicit fields."""

from collections.abc import Mapping
from typing import Any

from kdstudy.config.schema import Study
from kdstudy.methods import METHODS, Method

# `corrected` is the schema's own defaults, so it sets nothing.
PRESETS: dict[str, dict[str, Any]] = {
    "corrected": {},
    "reference": {
        "methods": ["sft", "word_kd", "revkd", "gkd"],
        "template": "reference",
        "extraction": "reference",
        "train": {
            "loss_tokens": "positions",
            "normalisation": "micro_batches",
            "select_by": "cross_entropy",
            "max_truncated_share": 1.0,
        },
        "generation": {"temperature": 1.0},
    },
}
# Fields of each method that a preset sets, whichever methods the study lists.
OF_METHODS: dict[str, dict[str, Mapping[str, Any]]] = {
    "corrected": {},
    "reference": {name: cls.preset for name, cls in METHODS.items() if cls.preset},
}

WHY_METHODS = "the released code's 'SeqKD' is token-level KL(teacher || student): word_kd here"
WHY = {
    "template": "the released prompt, with its 16-space indents",
    "extraction": "the last number, or the first letter A-E, anywhere in the text",
    "train.loss_tokens": "the released code masks by attention: prompts are trained on, and so is "
    "the output after the last token",
    "train.normalisation": "the released mean is over the tokens of each micro-batch of 4 rows",
    "train.select_by": "the released validation measures cross-entropy for every method",
    "train.max_truncated_share": "the released code cuts at max_length and says nothing",
    "generation.temperature": "the released code always samples at temperature 1, one draw",
}
WHY_OF_METHODS = {
    "normalisation": "the released KLs are a mean per sequence, then over the micro-batch",
    "probability_epsilon": "the released code adds 1e-9 to probabilities without renormalising",
    "mixture": "the released mixture has teacher and student swapped; equal at beta 0.5",
    "tau_squared": "the temperature never reaches the released JSD",
    "on_policy_text": "the released code decodes student text without its end and tokenises anew",
}


def expand(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the study's raw fields with its preset under them: what the user wrote wins."""
    name = str(raw.get("protocol", "corrected"))
    merged = _under(PRESETS.get(name, {}), raw)
    if isinstance(merged.get("methods"), list):
        of_methods = OF_METHODS.get(name, {})
        merged["methods"] = [_method_under(of_methods, m) for m in merged["methods"]]
    return merged


def _method_under(of_methods: dict[str, Mapping[str, Any]], method: Any) -> Any:
    kind = method.get("type") if isinstance(method, dict) else method
    preset = of_methods.get(kind) if isinstance(kind, str) else None
    if preset is None:
        return method
    return dict(preset) | (method if isinstance(method, dict) else {"type": method})


def differences(study: Study) -> list[dict[str, str]]:
    """Return each protocol field whose value is not `corrected`'s: field, value, corrected, why.

    Which methods a study compares is its question and no deviation; `methods` is named only where
    `reference` itself has put word_kd in SeqKD's place.
    """
    rows = [_methods_of_reference(study)]
    for field, why in WHY.items():
        head, _, tail = field.partition(".")
        value, default = getattr(study, head), Study.model_fields[head].default
        preset = PRESETS["reference"][head]
        if tail:
            value, default, preset = getattr(value, tail), getattr(default, tail), preset[tail]
        rows.append(_difference(field, value, default, preset, why))
    rows += [row for method in study.methods for row in _method_differences(method)]
    return [row for row in rows if row is not None]


def _methods_of_reference(study: Study) -> dict[str, str] | None:
    """Return what the preset's own list of methods differs in, where the study has that list."""
    types, released = [m.type for m in study.methods], PRESETS["reference"]["methods"]
    if study.protocol != "reference" or types != released:
        return None
    corrected = [m.type for m in Study.model_fields["methods"].default]
    return _difference("methods", types, corrected, released, WHY_METHODS)


def _method_differences(method: Method) -> list[dict[str, str] | None]:
    fields, presets = type(method).model_fields, OF_METHODS["reference"].get(method.type, {})
    return [
        _difference(
            f"methods.{method.type}.{name}",
            getattr(method, name),
            fields[name].default,
            presets.get(name),
            why,
        )
        for name, why in WHY_OF_METHODS.items()
        if name in fields
    ]


def _difference(
    field: str, value: Any, corrected: Any, released: Any, why: str
) -> dict[str, str] | None:
    """Return how a value differs; why is the released code's reason only where the value is its."""
    if value == corrected:
        return None
    return {
        "field": field,
        "value": str(value),
        "corrected": str(corrected),
        "why": why if value == released else "chosen in the study file",
    }


def _under(preset: dict[str, Any], raw: dict[str, Any]) -> dict[str, Any]:
    merged = dict(preset)
    for key, value in raw.items():
        below = preset.get(key)
        both = isinstance(below, dict) and isinstance(value, dict)
        merged[key] = _under(below, value) if both else value
    return merged
