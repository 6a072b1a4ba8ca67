"""The presets `corrected` and `reference`, each expanded into explicit fields."""

from typing import Any

from kdstudy.study.schema import Study

# `corrected` is the schema's own defaults, so it sets nothing.
PRESETS: dict[str, dict[str, Any]] = {
    "corrected": {},
    "reference": {
        "methods": ["sft", "word_kd", "revkd", "gkd"],
        "template": "reference",
        "extraction": "reference",
        "train": {
            "loss_tokens": "all",
            "normalisation": "sequences",
            "select_by": "cross_entropy",
            "max_truncated_share": 1.0,
        },
        "generation": {"temperature": 1.0},
    },
}

WHY = {
    "methods": "the released code's 'SeqKD' is token-level KL(teacher || student): word_kd here",
    "template": "the released prompt, with its 16-space indents",
    "extraction": "the last number, or the first letter A-E, anywhere in the text",
    "train.loss_tokens": "the released code trains on prompts as well (`train_on_inputs`)",
    "train.normalisation": "mean per sequence, then over the micro-batch",
    "train.select_by": "the released validation measures cross-entropy for every method",
    "train.max_truncated_share": "the released code cuts at max_length and says nothing",
    "generation.temperature": "the released code always samples at temperature 1, one draw",
}


def expand(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the study's raw fields with its preset under them: what the user wrote wins."""
    preset = PRESETS.get(str(raw.get("protocol", "corrected")), {})
    return _under(preset, raw)


def differences(study: Study) -> list[dict[str, str]]:
    """Return each protocol field whose value is not `corrected`'s: field, value, corrected, why."""
    rows = []
    for field, why in WHY.items():
        value, default = study, Study.model_fields
        for part in field.split("."):
            value = getattr(value, part)
        head, _, tail = field.partition(".")
        default = default[head].default
        default = getattr(default, tail) if tail else default
        if field == "methods":
            value, default = [m.type for m in value], [m.type for m in default]
            if "seqkd" in value or "word_kd" not in value:
                continue
        if value != default:
            rows.append(
                {"field": field, "value": str(value), "corrected": str(default), "why": why}
            )
    return rows


def _under(preset: dict[str, Any], raw: dict[str, Any]) -> dict[str, Any]:
    merged = dict(preset)
    for key, value in raw.items():
        below = preset.get(key)
        both = isinstance(below, dict) and isinstance(value, dict)
        merged[key] = _under(below, value) if both else value
    return merged
